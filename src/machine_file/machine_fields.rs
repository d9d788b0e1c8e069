//! The entries of the pool, `build_machine { … }` and `local_machine { … }`, and their fields.

use super::decode;
use super::on_demand;
use super::schema::Field;
use crate::machine::{HostKey, Machine};
use serde_json::json;

/// One `build_machine` of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub machine: Machine,
    /// Line on which its constructor was called.
    pub line: Option<u32>,
    /// Whether it has an `accepts` of its own.
    pub has_accepts: bool,
    /// Whether it has a `score` of its own.
    pub has_score: bool,
    /// Whether that is `offload.soonest`.
    pub scores_soonest: bool,
}

impl Default for Entry {
    /// Returns the defaults, with empty values in the required fields.
    fn default() -> Entry {
        let machine = Machine::new("", "", Vec::new(), Vec::new());
        Entry { machine, line: None, has_accepts: false, has_score: false, scores_soonest: false }
    }
}

/// The head itself, as a candidate; `LOCAL_MACHINE_FIELDS` documents its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalMachine {
    pub name: String,
    /// `None`: those that its daemon builds.
    pub systems: Option<Vec<String>>,
    pub speed: f64,
    pub features: Vec<String>,
    /// `None` ignores the load.
    pub overload_threshold: Option<f64>,
    pub enabled: bool,
    pub tags: serde_json::Map<String, serde_json::Value>,
    pub has_accepts: bool,
    pub has_score: bool,
    pub scores_soonest: bool,
}

impl Default for LocalMachine {
    fn default() -> LocalMachine {
        LocalMachine {
            name: "localhost".to_owned(),
            systems: None,
            speed: 1.0,
            features: Vec::new(),
            overload_threshold: Some(0.8),
            enabled: true,
            tags: serde_json::Map::new(),
            has_accepts: false,
            has_score: false,
            scores_soonest: false,
        }
    }
}

type BuildMachineField = Field<Entry>;
type LocalMachineField = Field<LocalMachine>;

/// The limit of waits on a link to a build machine, in seconds: a day.
const MAX_TIMEOUT_SECONDS: f64 = 86400.0;
/// The least `stall_timeout`, in seconds: libssh2 sends at most one keep-alive message in two seconds.
const MIN_STALL_TIMEOUT_SECONDS: f64 = 3.0;

/// The fields of `build_machine`.
pub const BUILD_MACHINE_FIELDS: &[Field<Entry>] = &[
    BuildMachineField::new("name", "string", "Host name or address. Write an IPv6 address without brackets.")
        .required()
        .read(|f, e| decode::name(f).map(|name| e.machine.name = name))
        .json(|e| json!(e.machine.name)),
    BuildMachineField::new("user", "string", "The account to log in as.")
        .required()
        .read(|f, e| decode::user(f).map(|user| e.machine.user = user))
        .json(|e| json!(e.machine.user)),
    BuildMachineField::new(
        "host_key",
        "string|string[]",
        "The machine's SSH host key in OpenSSH form, `\"ssh-ed25519 AAAA…\"`, or a list of such keys. On the machine, \
         the key is in a file such as `/etc/ssh/ssh_host_ed25519_key.pub`. Types: `ssh-ed25519`, \
         `ecdsa-sha2-nistp256`, `-nistp384`, `-nistp521`, `ssh-rsa` (2048 bits or more; signatures with SHA-2). May be missing if a function `start` of `on_demand` returns it.",
    )
    .required()
    .read(|f, e| match f.value().is_nil() && on_demand::starts_by_function(f) {
        true => Some(()),
        false => decode::host_keys(f).map(|keys| e.machine.host_keys = keys),
    })
    .json(|e| e.machine.host_keys.iter().map(HostKey::to_openssh).collect()),
    BuildMachineField::new("systems", "string[]", "System types that the machine builds for, such as `{ \"x86_64-linux\", \"i686-linux\" }`.")
        .required()
        .read(|f, e| decode::systems(f).map(|systems| e.machine.systems = systems))
        .json(|e| json!(e.machine.systems)),
    BuildMachineField::new("system", "string", "Deprecated, as in Guix: one system type. Use `systems`.")
        .read(|f, _| decode::system(f)),
    BuildMachineField::new("port", "integer", "Port of the machine's SSH server.")
        .read(|f, e| f.whole(1, 65535).map(|port| e.machine.port = port))
        .json(|e| json!(e.machine.port)),
    BuildMachineField::new(
        "private_key",
        "string",
        "File name of the SSH private key for the account, in OpenSSH or PEM format. The name is absolute, or \
         begins with `~/` for the home directory of guix-daemon's user. The key must have no passphrase, and only its \
         owner may have access to it. Without this field: the first of `~/.ssh/id_ed25519`, `~/.ssh/id_ecdsa` and \
         `~/.ssh/id_rsa` that exists.",
    )
    .read(|f, e| decode::private_key(f).map(|file| e.machine.private_key = Some(file)))
    .json(|e| json!(e.machine.private_key.as_ref().map(|file| file.display().to_string()))),
    BuildMachineField::new("daemon_socket", "string", "File name of the socket that the machine's guix-daemon listens on.")
        .read(|f, e| decode::socket(f).map(|file| e.machine.daemon_socket = file))
        .json(|e| json!(e.machine.daemon_socket.display().to_string())),
    BuildMachineField::new(
        "compression",
        "\"auto\"|\"zlib\"|\"none\"|string",
        "Compression of the SSH connection. `\"auto\"`: uploads, downloads or both are compressed if the transfers \
         of the last hour show that this saves time. The first connection is not compressed. The spellings of Guix, such as \
         `\"zlib@openssh.com,zlib\"`, are accepted.",
    )
    .read(|f, e| decode::compression(f).map(|compression| e.machine.compression = compression))
    .json(|e| json!(e.machine.compression.name())),
    BuildMachineField::new("compression_level", "integer", "Ignored, with a warning: the SSH library has one level.")
        .read(|f, _| decode::compression_level(f)),
    BuildMachineField::new("parallel_builds", "integer", "The number of build slots: how many builds of this head may run on the machine at the same time.")
        .read(|f, e| f.whole(1, 1000).map(|slots| e.machine.parallel_builds = slots))
        .json(|e| json!(e.machine.parallel_builds)),
    BuildMachineField::new("speed", "number", "Relative speed, above 0.")
        .read(|f, e| decode::speed(f).map(|speed| e.machine.speed = speed))
        .json(|e| json!(e.machine.speed)),
    BuildMachineField::new(
        "features",
        "string[]",
        "Features that the machine offers, such as `{ \"kvm\" }`. A derivation's `requiredSystemFeatures` must all be \
         among these features.",
    )
    .read(|f, e| decode::features(f).map(|features| e.machine.features = features))
    .json(|e| json!(e.machine.features)),
    BuildMachineField::new(
        "overload_threshold",
        "number|false",
        "The machine gets no builds while its one-minute load average, divided by its number of cores, is above this \
         number. `false`: the load is ignored.",
    )
    .read(|f, e| decode::load(f).map(|load| e.machine.overload_threshold = load))
    .json(|e| json!(e.machine.overload_threshold)),
    BuildMachineField::new("minimum_disk_space", "number", "The machine gets no builds while less space is free in its store.")
        .unit("bytes")
        .read(|f, e| f.whole(0, u64::MAX).map(|bytes| e.machine.minimum_disk_space = bytes))
        .json(|e| json!(e.machine.minimum_disk_space)),
    BuildMachineField::new(
        "connect_timeout",
        "number",
        "The time limit for each of three steps. Step 1: name resolution, TCP connection, SSH handshake and login, all \
         together. Step 2: a channel to the daemon. Step 3: the daemon's greeting.",
    )
    .unit("seconds")
    .read(|f, e| f.seconds(MAX_TIMEOUT_SECONDS).map(|time| e.machine.connect_timeout = time))
    .json(|e| decode::seconds_to_json(e.machine.connect_timeout)),
    BuildMachineField::new(
        "stall_timeout",
        "number",
        "If no byte arrives for this time, not even the reply to a keep-alive message, the connection counts as dead. \
         The least value is 3. If the daemon has responded over the connection before, this is also the limit of steps \
         2 and 3 of `connect_timeout`, unless that limit is longer.",
    )
    .unit("seconds")
    .read(|f, e| {
        f.seconds_from(MIN_STALL_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS).map(|time| e.machine.stall_timeout = time)
    })
    .json(|e| decode::seconds_to_json(e.machine.stall_timeout)),
    BuildMachineField::new("keepalive_interval", "number", "After this time without a byte from the machine, the head sends a keep-alive message.")
        .unit("seconds")
        .read(|f, e| f.seconds(MAX_TIMEOUT_SECONDS).map(|time| e.machine.keepalive_interval = time))
        .json(|e| decode::seconds_to_json(e.machine.keepalive_interval)),
    BuildMachineField::new(
        "keep_connection",
        "number|false",
        "How long a connection to the machine stays open after a build, so that the next build can use it; up to 600. \
         `false`: the connection is closed at once.",
    )
    .unit("seconds")
    .read(|f, e| decode::keep_connection(f).map(|time| e.machine.keep_connection = time))
    .json(|e| e.machine.keep_connection.map(decode::seconds_to_json).into()),
    BuildMachineField::new("max_transfers", "integer", "How many uploads to the machine may run at the same time. The same limit applies to downloads from the machine.")
        .read(|f, e| f.whole(1, 1000).map(|transfers| e.machine.max_transfers = transfers))
        .json(|e| json!(e.machine.max_transfers)),
    BuildMachineField::new("enabled", "boolean", "`false`: the machine is never chosen.")
        .read(|f, e| f.boolean().map(|enabled| e.machine.enabled = enabled))
        .json(|e| json!(e.machine.enabled)),
    BuildMachineField::new(
        "proxy_command",
        "string[]",
        "A program with its arguments, such as `{ \"ssh\", \"-W\", \"%h:%p\", \"bastion\" }`. The program carries the SSH \
         connection on its standard input and output. `%h` becomes the machine's name, and `%p` its port. No shell is \
         involved. When the connection ends, the program and all processes that it has started are killed, even an \
         `ssh` that `ControlPersist` keeps in the background.",
    )
    .read(|f, e| decode::proxy_command(f).map(|command| e.machine.proxy_command = Some(command)))
    .json(|e| json!(e.machine.proxy_command)),
    BuildMachineField::new(
        "substitutes",
        "\"auto\"|\"always\"|\"never\"",
        "Whether the machine's daemon fetches missing inputs from substitute servers. `\"auto\"`: the daemon fetches \
         them if sending them would take longer than 3 s, and longer than fetching. `\"always\"`: the daemon fetches \
         all that the servers have. `\"never\"`: the head sends all missing inputs.",
    )
    .read(|f, e| decode::substitutes(f).map(|substitutes| e.machine.substitutes = substitutes))
    .json(|e| json!(e.machine.substitutes.name())),
    BuildMachineField::new(
        "substitute_urls",
        "string[]",
        "The substitute servers for missing inputs, such as `{ \"https://ci.guix.gnu.org\" }`. With `{}`, the \
         machine's daemon uses the servers of its own configuration. In both cases, a key in the machine's \
         `/etc/guix/acl` must have signed each item.",
    )
    .read(|f, e| decode::substitute_urls(f).map(|urls| e.machine.substitute_urls = urls))
    .json(|e| json!(e.machine.substitute_urls)),
    BuildMachineField::new(
        "substitute_timeout",
        "number",
        "The longest time that a silent or slow substitute server may delay a build. After this time, the head sends the \
         inputs, and no build uses the servers of this machine for a while.",
    )
    .unit("seconds")
    .read(|f, e| f.seconds(MAX_TIMEOUT_SECONDS).map(|time| e.machine.substitute_timeout = time))
    .json(|e| decode::seconds_to_json(e.machine.substitute_timeout)),
    BuildMachineField::new(
        "on_demand",
        "offload.OnDemand",
        "How the machine is started when a build needs it, and stopped when it is idle. Without this field, the machine \
         always runs.",
    )
    .read(|f, e| on_demand::machine(f).map(|on_demand| e.machine.on_demand = Some(on_demand)))
    .json(|e| on_demand::machine_to_json(e.machine.on_demand.as_ref())),
    BuildMachineField::new(
        "tags",
        "table<string, any>",
        "Your own data, for functions and `offload eval --json`, such as `{ rack = \"B3\", cost = 0.4 }`. You choose \
         the names. Values are strings, numbers, booleans, and tables of these. Limits: 8 levels, 64 KiB.",
    )
    .read(|f, e| decode::tags(f).map(|tags| e.machine.tags = tags))
    .json(|e| json!(e.machine.tags)),
    BuildMachineField::new("accepts", "offload.Accepts", "Returns whether this machine takes a build. If the pool has a function `accepts`, too, both must return true.")
        .read(|f, e| f.function().map(|_| e.has_accepts = true))
        .json(|e| json!(e.has_accepts)),
    BuildMachineField::new("score", "offload.ScoreFunction", "Returns the machine's score for a build. The highest score is the best. For this machine, the function replaces the pool's `score`.")
        .read(|f, e| f.function().map(|_| e.has_score = true))
        .json(|e| json!(e.has_score)),
    BuildMachineField::new("inherit", "table", "A table or another machine, from which this entry takes the fields that it does not give itself.")
        .read(|f, _| f.table().map(|_| ())),
];

/// The fields of `local_machine`.
pub const LOCAL_MACHINE_FIELDS: &[Field<LocalMachine>] = &[
    LocalMachineField::new("name", "string", "Name to show in messages.")
        .read(|f, l| f.string("a name to show in messages").map(|name| l.name = name))
        .json(|l| json!(l.name)),
    LocalMachineField::new(
        "systems",
        "string[]",
        "System types that the head builds for. Without this field: the head's own system type; on x86_64-linux also \
         i686-linux; on aarch64-linux also armhf-linux.",
    )
    .read(|f, l| decode::systems(f).map(|systems| l.systems = Some(systems)))
    .json(|l| json!(l.systems)),
    LocalMachineField::new("speed", "number", "Relative speed, above 0.")
        .read(|f, l| decode::speed(f).map(|speed| l.speed = speed))
        .json(|l| json!(l.speed)),
    LocalMachineField::new("features", "string[]", "Features that the head offers, such as `{ \"kvm\" }`.")
        .read(|f, l| decode::features(f).map(|features| l.features = features))
        .json(|l| json!(l.features)),
    LocalMachineField::new("overload_threshold", "number|false", "As for `build_machine`.")
        .read(|f, l| decode::load(f).map(|load| l.overload_threshold = load))
        .json(|l| json!(l.overload_threshold)),
    LocalMachineField::new("enabled", "boolean", "`false`: the head is never chosen.")
        .read(|f, l| f.boolean().map(|enabled| l.enabled = enabled))
        .json(|l| json!(l.enabled)),
    LocalMachineField::new("tags", "table<string, any>", "As for `build_machine`.")
        .read(|f, l| decode::tags(f).map(|tags| l.tags = tags))
        .json(|l| json!(l.tags)),
    LocalMachineField::new(
        "accepts",
        "offload.Accepts",
        "Returns whether the head takes a build. If the pool has a function `accepts`, too, both must return true.",
    )
    .read(|f, l| f.function().map(|_| l.has_accepts = true))
    .json(|l| json!(l.has_accepts)),
    LocalMachineField::new(
        "score",
        "offload.ScoreFunction",
        "Returns the head's score for a build. The highest score is the best. For the head, the function replaces the \
         pool's `score`.",
    )
    .read(|f, l| f.function().map(|_| l.has_score = true))
    .json(|l| json!(l.has_score)),
    LocalMachineField::new(
        "inherit",
        "table",
        "A table or another machine, from which this entry takes the fields that it does not give itself.",
    )
    .read(|f, _| f.table().map(|_| ())),
];
