---@meta offload

-- What a machine file of `offload` may use, for editors with the Lua language server (LuaLS). Put this file where the
-- server looks for libraries (the setting `Lua.workspace.library`). It is never run.

---A build machine, as `build_machine { … }` takes it.
---@class offload.BuildMachine
---Host name or address. Write an IPv6 address without brackets.
---@field name string
---The account to log in as.
---@field user string
---The machine's SSH host key in OpenSSH form, `"ssh-ed25519 AAAA…"`, or a list of such keys. On the machine, the key is
---in a file such as `/etc/ssh/ssh_host_ed25519_key.pub`. Types: `ssh-ed25519`, `ecdsa-sha2-nistp256`, `-nistp384`,
---`-nistp521`, `ssh-rsa` (2048 bits or more; signatures with SHA-2). May be missing if a function `start` of
---`on_demand` returns it.
---@field host_key string|string[]
---System types that the machine builds for, such as `{ "x86_64-linux", "i686-linux" }`.
---@field systems string[]
---Deprecated, as in Guix: one system type. Use `systems`.
---@field system? string
---Port of the machine's SSH server. Default: 22.
---@field port? integer
---File name of the SSH private key for the account, in OpenSSH or PEM format. The name is absolute, or begins with `~/`
---for the home directory of guix-daemon's user. The key must have no passphrase, and only its owner may have access to
---it. Without this field: the first of `~/.ssh/id_ed25519`, `~/.ssh/id_ecdsa` and `~/.ssh/id_rsa` that exists.
---@field private_key? string
---File name of the socket that the machine's guix-daemon listens on. Default: "/var/guix/daemon-socket/socket".
---@field daemon_socket? string
---Compression of the SSH connection. `"auto"`: uploads, downloads or both are compressed if the transfers of the last
---hour show that this saves time. The first connection is not compressed. The spellings of Guix, such as
---`"zlib@openssh.com,zlib"`, are accepted. Default: "auto".
---@field compression? "auto"|"zlib"|"none"|string
---Ignored, with a warning: the SSH library has one level.
---@field compression_level? integer
---The number of build slots: how many builds of this head may run on the machine at the same time. Default: 1.
---@field parallel_builds? integer
---Relative speed, above 0. Default: 1.0.
---@field speed? number
---Features that the machine offers, such as `{ "kvm" }`. A derivation's `requiredSystemFeatures` must all be among
---these features. Default: {}.
---@field features? string[]
---The machine gets no builds while its one-minute load average, divided by its number of cores, is above this number.
---`false`: the load is ignored. Default: 0.8.
---@field overload_threshold? number|false
---The machine gets no builds while less space is free in its store. In bytes. Default: 100 MiB.
---@field minimum_disk_space? number
---The time limit for each of three steps. Step 1: name resolution, TCP connection, SSH handshake and login, all
---together. Step 2: a channel to the daemon. Step 3: the daemon's greeting. In seconds. Default: 5.
---@field connect_timeout? number
---If no byte arrives for this time, not even the reply to a keep-alive message, the connection counts as dead. The
---least value is 3. If the daemon has responded over the connection before, this is also the limit of steps 2 and 3 of
---`connect_timeout`, unless that limit is longer. In seconds. Default: 60.
---@field stall_timeout? number
---After this time without a byte from the machine, the head sends a keep-alive message. In seconds. Default: 15.
---@field keepalive_interval? number
---How long a connection to the machine stays open after a build, so that the next build can use it; up to 600. `false`:
---the connection is closed at once. In seconds. Default: 30.
---@field keep_connection? number|false
---How many uploads to the machine may run at the same time. The same limit applies to downloads from the machine.
---Default: 4.
---@field max_transfers? integer
---`false`: the machine is never chosen. Default: true.
---@field enabled? boolean
---A program with its arguments, such as `{ "ssh", "-W", "%h:%p", "bastion" }`. The program carries the SSH connection
---on its standard input and output. `%h` becomes the machine's name, and `%p` its port. No shell is involved. When the
---connection ends, the program and all processes that it has started are killed, even an `ssh` that `ControlPersist`
---keeps in the background.
---@field proxy_command? string[]
---Whether the machine's daemon fetches missing inputs from substitute servers. `"auto"`: the daemon fetches them if
---sending them would take longer than 3 s, and longer than fetching. `"always"`: the daemon fetches all that the
---servers have. `"never"`: the head sends all missing inputs. Default: "auto".
---@field substitutes? "auto"|"always"|"never"
---The substitute servers for missing inputs, such as `{ "https://ci.guix.gnu.org" }`. With `{}`, the machine's daemon
---uses the servers of its own configuration. In both cases, a key in the machine's `/etc/guix/acl` must have signed
---each item. Default: {}.
---@field substitute_urls? string[]
---The longest time that a silent or slow substitute server may delay a build. After this time, the head sends the
---inputs, and no build uses the servers of this machine for a while. In seconds. Default: 60.
---@field substitute_timeout? number
---How the machine is started when a build needs it, and stopped when it is idle. Without this field, the machine always
---runs.
---@field on_demand? offload.OnDemand
---Your own data, for functions and `offload eval --json`, such as `{ rack = "B3", cost = 0.4 }`. You choose the names.
---Values are strings, numbers, booleans, and tables of these. Limits: 8 levels, 64 KiB. Default: {}.
---@field tags? table<string, any>
---Returns whether this machine takes a build. If the pool has a function `accepts`, too, both must return true.
---@field accepts? offload.Accepts
---Returns the machine's score for a build. The highest score is the best. For this machine, the function replaces the
---pool's `score`.
---@field score? offload.ScoreFunction
---A table or another machine, from which this entry takes the fields that it does not give itself.
---@field inherit? table

---The head itself, as `local_machine { … }` takes it. When it has the best score, the daemon is told to build locally.
---@class offload.LocalMachine
---Name to show in messages. Default: "localhost".
---@field name? string
---System types that the head builds for. Without this field: the head's own system type; on x86_64-linux also
---i686-linux; on aarch64-linux also armhf-linux.
---@field systems? string[]
---Relative speed, above 0. Default: 1.0.
---@field speed? number
---Features that the head offers, such as `{ "kvm" }`. Default: {}.
---@field features? string[]
---As for `build_machine`. Default: 0.8.
---@field overload_threshold? number|false
---`false`: the head is never chosen. Default: true.
---@field enabled? boolean
---As for `build_machine`. Default: {}.
---@field tags? table<string, any>
---Returns whether the head takes a build. If the pool has a function `accepts`, too, both must return true.
---@field accepts? offload.Accepts
---Returns the head's score for a build. The highest score is the best. For the head, the function replaces the pool's
---`score`.
---@field score? offload.ScoreFunction
---A table or another machine, from which this entry takes the fields that it does not give itself.
---@field inherit? table

---What a machine file returns: the list of machines, and with names the settings of the pool.
---@class offload.Pool
---@field [integer] offload.BuildMachine|offload.LocalMachine
---Returns whether a machine takes a build. The hook calls it for each machine whose systems and features match. Without
---this function, all these machines take the build.
---@field accepts? offload.Accepts
---Returns the score of a machine for a build. The highest score is the best. The hook calls it for machines without a
---`score` of their own. Without any function `score`, the score is speed / (1 + load).
---@field score? offload.ScoreFunction
---What happens if no matching machine can take the build now, but at least one is only busy: without a free slot,
---overloaded, drained or low on disk. `"wait"`: the build waits. `"local"`: if the daemon offers to build and the head
---has the system type, the head builds; otherwise the build waits. A function of the request can return one of these
---words. Default: "wait".
---@field when_busy? "wait"|"local"|offload.Choice
---What happens if no matching machine can be reached: `"wait"`, `"local"` or a function, as for `when_busy`. Default:
---"local".
---@field when_unreachable? "wait"|"local"|offload.Choice
---How many attempts a build gets, on different machines or again on the same machine; 1 to 1000. Or a function of the
---request that returns such a number. It is called once, when the build is accepted. Default: 3.
---@field max_attempts? integer|offload.Attempts
---How long an accepted build may wait for a build slot; 0 to 86400. Without this field, only the daemon's own limits
---apply. Or a function of the request that returns such a number, or nil for the daemon's limits. In seconds.
---@field wait_for_slot? number|offload.Wait
---How long an accepted build may wait while no matching machine can be reached; 0 to 86400. In seconds. Default: 60.
---@field wait_for_machine? number
---Receives events: builds that failed, machines that went down or came up, machines on demand that were started or
---stopped. A process of its own calls it, which no build waits for.
---@field on_event? offload.OnEvent
---Limits of all machines with `on_demand` together.
---@field on_demand? offload.OnDemandLimits
---The database with which several heads share the machines, so that all of them together run no more than
---`parallel_builds` builds on a machine. Without this field, each head counts its own builds.
---@field shared? offload.SharedPool
---Limits of time and memory for Lua code.
---@field limits? offload.Limits

---What Lua code may use. `evaluate` and `memory` must be written as numbers here: they are read before the file runs.
---@class offload.Limits
---Time to evaluate the machine file. In seconds. Default: 5.
---@field evaluate? number
---Time for all calls of the file's functions during one decision of the hook, in total. In seconds. Default: 0.5.
---@field decide? number
---Time for a call of `on_event`. In seconds. Default: 10.
---@field on_event? number
---Memory of the Lua interpreter. In bytes. Default: 64 MiB.
---@field memory? number

---How a machine is started when a build needs it, and stopped when it is idle.
---@class offload.OnDemand
---Starts the machine: a program and its arguments, or a function of the machine. It may return before the machine has
---booted. The function may return a table with the fields `name`, `port` and `host_key`.
---@field start string[]|fun(machine: offload.BuildMachine): offload.Started?
---Stops the machine, as `start` starts it. It also runs after a failed start, so it must succeed if the machine does
---not run.
---@field stop string[]|fun(machine: offload.BuildMachine)
---The time limit from the call of `start` to the response of the machine's daemon. In seconds. Default: 300.
---@field boot_timeout? number
---The time limit of `stop`. In seconds. Default: 120.
---@field stop_timeout? number
---After this time without a build, the machine is stopped. In seconds. Default: 600.
---@field idle? number
---The machine is not stopped before it has run for this time, such as 3600 where each hour that has begun is paid for.
---In seconds. Default: 0.
---@field min_up? number
---How long a build waits for a slot of a machine that runs, before this machine is started. If no matching machine
---runs, this machine is started at once. In seconds. Default: 15.
---@field start_after? number

---Limits of all machines on demand together.
---@class offload.OnDemandLimits
---How many machines may run or start at the same time.
---@field max_running? integer
---How many machines may start at the same time.
---@field max_starting? integer
---How many hours the machines may have run within the last 24 hours, all added up. Then none is started.
---@field max_hours? number

---The database with which several heads share their machines.
---@class offload.SharedPool
---The URL of a PostgreSQL database, such as `"postgresql://offload@db.lan/offload?sslmode=verify-full"`. Its parameters
---are those of libpq. It has no password.
---@field url string
---The name of the pool. Heads with the same name in the same database share their machines. Default: "default".
---@field name? string
---The slots that this head uses while the database cannot be used. `"share"`: it uses the slots of each machine divided
---by the number of heads that were last seen, and one at least. `"all"`: it uses all slots. `"local"`: it builds
---locally what the daemon offers to build and its system can, and the rest as with `"share"`. Default: "share".
---@field when_down? "share"|"all"|"local"
---The file with the password of the account, alone in it. The daemon's user must be able to read it. Without this
---field, the password is in the variable `PGPASSWORD` of guix-daemon, or there is none.
---@field password_file? string

---A number from 1 to 1000.
---@alias offload.Attempts fun(request: offload.Request): integer

---A number of seconds from 0 to 86400; or nil: only the daemon's own limits apply.
---@alias offload.Wait fun(request: offload.Request): number?

---True, or false and why not.
---@alias offload.Accepts fun(request: offload.Request, machine: offload.BuildMachine|offload.LocalMachine): boolean, string?

---A number, the higher the better; or false and why this machine is not to be chosen. May be called more than once for a
---build.
---@alias offload.ScoreFunction fun(request: offload.Request, machine: offload.BuildMachine|offload.LocalMachine, status: offload.Status): number|false, string?

---Receives an event. What it returns is ignored.
---@alias offload.OnEvent fun(event: offload.Event)

---What has happened to a build or a machine. Fields that do not apply are nil.
---@class offload.Event
---`"build_failed"`: an accepted build has failed: its builder, a time limit, or all attempts. `"attempt_failed"`: an
---attempt has failed because of the machine; another attempt follows, if one is left. `"machine_down"`: a machine
---cannot be reached or fails builds, since now. `"machine_up"`: it responds again. `"machine_started"`,
---`"machine_stopped"`, `"start_failed"`, `"stop_failed"`: about a machine on demand.
---@field type string
---When it happened, since 1970. In seconds.
---@field time number
---The event as a sentence.
---@field text string
---Name of the machine, with its port if that is not 22; nil: it is about none.
---@field machine? string
---Why, in words; nil: nothing has failed.
---@field reason? string
---File name of the derivation in the store; nil: it is about no build.
---@field derivation? string
---Name of the derivation, without directory, hash and `.drv`.
---@field name? string
---System type of the derivation.
---@field system? string
---Name of the user whose command requests the build; nil: unknown.
---@field user? string
---Number of the attempt, from 1.
---@field attempt? integer
---How long the machine took to start, or was on before it was stopped. In seconds.
---@field seconds? number

---What the daemon asks for: one derivation to be built. The same table for all calls of one decision.
---@class offload.Request
---System type of the derivation.
---@field system string
---Features that the machine must offer.
---@field features string[]
---File name of the derivation.
---@field derivation string
---Name of the derivation: its file name without directory, hash and `.drv`.
---@field name string
---Whether guix-daemon could build the derivation itself now.
---@field wants_local boolean
---A build fails after this time of silence; 0: no limit. In seconds.
---@field max_silent_time integer
---A build fails after this time; 0: no limit. In seconds.
---@field build_timeout integer
---Name of the user whose command requests the build, or the number of a user without an account. nil if guix-daemon
---does not tell it, such as for a client of another machine.
---@field user string|nil
---Number of the attempt: 1 at first, 2 after an attempt on a machine has failed.
---@field attempt integer
---Names of the machines on which attempts have failed, one for each attempt.
---@field tried string[]
---How many builds of this head wait for a machine. If this build waits already, it counts too.
---@field waiting integer
---Size of the inputs that the derivation names, without what these refer to; nil: unknown, for example because an input
---is not built yet. In bytes.
---@field input_bytes integer
---Time that the build is expected to take, from the history: on the machine in the middle, if machines differ; nil:
---unknown. In seconds.
---@field expected_seconds number
---Expected size of the outputs, from the history; nil: unknown. In bytes.
---@field expected_output_bytes number
---A method, `request:read_derivation()`: reads the derivation from the store.
---@field read_derivation fun(self: offload.Request): offload.Derivation

---A derivation.
---@class offload.Derivation
---The program that builds it.
---@field builder string
---The arguments of the builder.
---@field args string[]
---The environment variables of the builder.
---@field env table<string, string>
---The derivations it depends on, with the names of the outputs that it needs.
---@field inputs table<string, string[]>
---The store items it depends on that are no outputs.
---@field sources string[]
---Its outputs, by their names.
---@field outputs table<string, offload.Output>

---An output of a derivation.
---@class offload.Output
---File name of the output.
---@field path string
---For a fixed output: the hash algorithm, with `r:` in front if the hash is that of the nar.
---@field method? string
---For a fixed output: the hash, in base 16.
---@field hash? string

---How a machine is doing. Each field is nil where that is not known.
---@class offload.Status
---One-minute load average divided by the number of cores. The hook adds builds that have just started, because the
---average does not contain them yet.
---@field load? number
---Load averages over 1, 5 and 15 minutes.
---@field loadavg? number[]
---Number of cores.
---@field cores? integer
---Percentage of the last 10 seconds in which some process waited for a processor.
---@field pressure? number
---Memory that is available. In bytes.
---@field free_memory? integer
---Space free in the store. In bytes.
---@field free_disk? integer
---Inodes free in the store.
---@field free_inodes? integer
---Build slots that are taken.
---@field running? integer
---How far the machine's clock is ahead of the head's. In seconds.
---@field clock_skew? number
---Time since the machine was last probed; nil: it was never probed. In seconds.
---@field age? number
---Whether the last attempt to reach the machine succeeded.
---@field reachable? boolean
---For a machine with `on_demand`: `"off"`, `"starting"`, `"running"`, `"stopping"`, or `"failed"` while no start is
---tried after a failed one. Nil for other machines.
---@field power? string
---How many of the derivations that the build needs have outputs that the machine is not known to have. The head knows
---what was built there recently, and what those builds needed.
---@field missing_inputs? integer
---Size of the inputs that the machine is not known to have. In bytes.
---@field missing_bytes? integer

local offload = {}

---Makes a build machine of a table: a plain table with all defaults filled in.
---@param machine offload.BuildMachine
---@return offload.BuildMachine
function offload.build_machine(machine) end

---Makes the head itself a candidate.
---@param machine offload.LocalMachine
---@return offload.LocalMachine
function offload.local_machine(machine) end

---Runs a program without a shell and without input, and gives its standard output; if it does not end with 0, nil, a
---message and its exit status. A program named with a slash, but not absolute, stands beside the machine file.
---@param argv string[] the program and its arguments
---@param options? { timeout?: number } seconds after which it is killed; default 5
---@return string? output
---@return string? message
---@return integer? status
function offload.exec(argv, options) end

---Returns a function for `start` that wakes a machine up by a magic packet over UDP.
---@param mac string hardware address, such as "00:16:3e:12:34:56"
---@param options? { address?: string, port?: integer } default: 255.255.255.255, port 9
---@return fun(machine: offload.BuildMachine)
function offload.wake_on_lan(mac, options) end

---The content of a file, or nil and a message. A name that is not absolute stands beside the machine file; `~/` is the
---home directory.
---@param name string
---@return string? content
---@return string? message
function offload.read_file(name) end

---The value of an environment variable, or the default.
---@param name string
---@param default? string
---@return string?
function offload.env(name, default) end

---The value of a function, kept between processes. It is called when the kept value is older than `ttl` seconds; if it
---fails, the old value serves on. Values must be such as JSON can say.
---@generic T
---@param key string
---@param ttl number seconds
---@param fn fun(): T
---@return T
function offload.cached(key, ttl, fn) end

---The host keys that OpenSSH has noted for a host, fit for `host_key`. An error where there is none.
---@param host string `NAME` or `NAME:PORT`
---@param file? string default: `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`
---@return string[]
function offload.known_hosts(host, file) end

---Minus the seconds until the outputs of the build would be here: a `score`, or a part of one. It adds up the wait for a
---slot, the missing inputs, the build and the outputs, from the history. The arguments are those of `score`.
---@param request offload.Request
---@param machine offload.BuildMachine|offload.LocalMachine
---@param status offload.Status
---@return number
function offload.soonest(request, machine, status) end

offload.json = {}

---The JSON text of a value, or nil and a message. An empty table is an object, unless it was decoded from an array.
---@param value any
---@return string? text
---@return string? message
function offload.json.encode(value) end

---The value of a JSON text, or nil and a message. null becomes nil.
---@param text string
---@return any value
---@return string? message
function offload.json.decode(text) end

offload.log = {}

---Says something in the log of the hook.
---@param ... any
function offload.log.info(...) end

---Warns in the log of the hook.
---@param ... any
function offload.log.warn(...) end

---Makes a build machine of a table: a plain table with all defaults filled in.
---@param machine offload.BuildMachine
---@return offload.BuildMachine
function build_machine(machine) end

---Makes the head itself a candidate.
---@param machine offload.LocalMachine
---@return offload.LocalMachine
function local_machine(machine) end

return offload
