---@meta offload

-- What a machine file of `offload` may use, for editors with the Lua language server (LuaLS). Put this file where the
-- server looks for libraries (the setting `Lua.workspace.library`). It is never run.

---A build machine, as `build_machine { … }` takes it.
---@class offload.BuildMachine
---Host name or address. Write an IPv6 address without brackets.
---@field name string
---The account to log in as.
---@field user string
---The machine's SSH host key in OpenSSH form, `"ssh-ed25519 AAAA…"`, or a list of such keys. On the machine it is in a
---file such as `/etc/ssh/ssh_host_ed25519_key.pub`. Types: `ssh-ed25519`, `ecdsa-sha2-nistp256`, `-nistp384`,
---`-nistp521`, `ssh-rsa` (2048 bits or more; signatures with SHA-2).
---@field host_key string|string[]
---System types it builds for, such as `{ "x86_64-linux", "i686-linux" }`.
---@field systems string[]
---Deprecated, as in Guix: one system type. Use `systems`.
---@field system? string
---Port of its SSH server. Default: 22.
---@field port? integer
---File name of the SSH private key that opens the account, in OpenSSH format. The name is absolute, or begins with `~/`
---for the home directory of guix-daemon's user. The key must have no passphrase, and only its owner may have access to
---it. Without this field: the first of `~/.ssh/id_ed25519`, `~/.ssh/id_ecdsa` and `~/.ssh/id_rsa` that exists.
---@field private_key? string
---File name of the socket that its guix-daemon listens on. Default: "/var/guix/daemon-socket/socket".
---@field daemon_socket? string
---Compression of the SSH connection. `"auto"` compresses each direction where that saves time, judged by the transfers
---of the last hour; the first transfer is not compressed. The spellings of Guix, such as `"zlib@openssh.com,zlib"`, are
---accepted. Default: "auto".
---@field compression? "auto"|"zlib"|"none"|string
---Ignored, with a warning: the SSH library has one level.
---@field compression_level? integer
---Its build slots: how many builds may run on it at the same time. Default: 1.
---@field parallel_builds? integer
---Relative speed, above 0. Default: 1.0.
---@field speed? number
---Features that it offers, such as `{ "kvm" }`. A derivation's `requiredSystemFeatures` must all be among them.
---Default: {}.
---@field features? string[]
---It gets no builds while its load of the last minute, divided by its cores, is higher. `false` ignores the load.
---Default: 0.8.
---@field overload_threshold? number|false
---Space that must be free in its store. In bytes. Default: 100 MiB.
---@field minimum_disk_space? number
---Limit for name resolution, TCP, SSH handshake and login together; then for a channel to the daemon; then for the
---daemon's greeting. In seconds. Default: 5.
---@field connect_timeout? number
---The connection counts as dead after this time without any byte, at least 3. Also how long a daemon that has answered
---before may take to answer again. In seconds. Default: 60.
---@field stall_timeout? number
---After this time of silence, a keep-alive message is sent. In seconds. Default: 15.
---@field keepalive_interval? number
---How long a connection to the machine stays open after a build, for the next one; up to 600. `false`: it is closed at
---once. In seconds. Default: 30.
---@field keep_connection? number|false
---How many uploads, and how many downloads, may run at the same time. Default: 4.
---@field max_transfers? integer
---`false`: never chosen. Default: true.
---@field enabled? boolean
---Program and arguments that carry the SSH connection on their standard input and output, such as `{ "ssh", "-W",
---"%h:%p", "bastion" }`. `%h` and `%p` become name and port. No shell is involved. It is killed with all that it has
---started when the connection ends, a master of `ControlPersist` too.
---@field proxy_command? string[]
---Whether its daemon fetches missing inputs from substitute servers. `"auto"`: if sending them would take longer than 3
---s, judged by the transfers of the last hour. `"never"`: the head sends all of them. Default: "auto".
---@field substitutes? "auto"|"always"|"never"
---The substitute servers for these inputs, such as `{ "https://ci.guix.gnu.org" }`, instead of those of its daemon;
---`{}` are those of its daemon. Items must still be signed by a key in the access-control list of the build machine.
---Default: {}.
---@field substitute_urls? string[]
---The longest time that a silent or slow substitute server may delay a build. Then the head sends the inputs, and no
---build asks the servers for a while. In seconds. Default: 60.
---@field substitute_timeout? number
---A table of your own, for functions and `offload eval --json`, such as `{ rack = "B3", cost = 0.4 }`: strings,
---numbers, booleans and tables of these under any names, up to 8 levels and 64 KiB. Default: {}.
---@field tags? table<string, any>
---Returns whether it takes a build. The function of the pool must accept it, too.
---@field accepts? offload.Accepts
---Returns its score for a build, the higher the better. Replaces the function of the pool.
---@field score? offload.ScoreFunction
---Fields that are not given here come from this table or machine.
---@field inherit? table

---The head itself, as `local_machine { … }` takes it. When it has the best score, the daemon is told to build locally.
---@class offload.LocalMachine
---Name to show in messages. Default: "localhost".
---@field name? string
---System types that the head builds for. Without this field, those that its guix-daemon builds: its own, i686-linux on
---x86_64-linux, and armhf-linux on aarch64-linux.
---@field systems? string[]
---Relative speed, above 0. Default: 1.0.
---@field speed? number
---Features that it offers, such as `{ "kvm" }`. Default: {}.
---@field features? string[]
---As for a build machine. Default: 0.8.
---@field overload_threshold? number|false
---`false`: never chosen. Default: true.
---@field enabled? boolean
---As for a build machine. Default: {}.
---@field tags? table<string, any>
---Returns whether it takes a build. The function of the pool must accept it, too.
---@field accepts? offload.Accepts
---Returns its score for a build, the higher the better. Replaces the function of the pool.
---@field score? offload.ScoreFunction
---Fields that are not given here come from this table or machine.
---@field inherit? table

---What a machine file returns: the list of machines, and with names the settings of the pool.
---@class offload.Pool
---@field [integer] offload.BuildMachine|offload.LocalMachine
---Whether a machine takes a build; called for each machine that matches. Without it, every machine takes what it
---matches.
---@field accepts? offload.Accepts
---How well a machine suits a build: the highest score is chosen. Called for machines without a `score` of their own.
---Without it: speed / (1 + load).
---@field score? offload.ScoreFunction
---What to do when every matching machine is busy or drained: `"wait"` for one, or `"local"`: let the head build, if the
---daemon offers to and the head can. Or a function of the request that returns one of these. Default: "wait".
---@field when_busy? "wait"|"local"|offload.Choice
---What to do when no matching machine can be reached: `"wait"` or `"local"`, as above. Default: "local".
---@field when_unreachable? "wait"|"local"|offload.Choice
---How many machines are tried for one build. Default: 3.
---@field max_attempts? integer
---How long an accepted build may wait for a build slot; 0 to 86400. Without it, as long as the daemon's own limits
---allow. In seconds.
---@field wait_for_slot? number
---How long an accepted build may wait while no matching machine can be reached; 0 to 86400. In seconds. Default: 60.
---@field wait_for_machine? number
---Limits of time and memory for Lua code.
---@field limits? offload.Limits

---What Lua code may use. `evaluate` and `memory` must be written as numbers here: they are read before the file runs.
---@class offload.Limits
---Time to evaluate the machine file. In seconds. Default: 5.
---@field evaluate? number
---Time for all calls of functions of the file for one request. In seconds. Default: 0.5.
---@field decide? number
---Memory of the Lua interpreter. In bytes. Default: 64 MiB.
---@field memory? number

---What to do with a build that no machine can take now.
---@alias offload.Choice fun(request: offload.Request): "wait"|"local"

---True, or false and why not.
---@alias offload.Accepts fun(request: offload.Request, machine: offload.BuildMachine|offload.LocalMachine): boolean, string?

---A number, the higher the better; or false and why this machine is not to be chosen. May be called more than once for a
---build.
---@alias offload.ScoreFunction fun(request: offload.Request, machine: offload.BuildMachine|offload.LocalMachine, status: offload.Status): number|false, string?

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
---Whether the daemon has room to build it itself.
---@field wants_local boolean
---A build fails after this time of silence; 0: no limit. In seconds.
---@field max_silent_time integer
---A build fails after this time; 0: no limit. In seconds.
---@field build_timeout integer
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
---Load of the last minute over the number of cores, with builds that were started just now.
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
---How far its clock is ahead of the head's. In seconds.
---@field clock_skew? number
---Time since this was measured; nil: never. In seconds.
---@field age? number
---Whether the last attempt to reach it succeeded.
---@field reachable? boolean

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
