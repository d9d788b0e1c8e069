---@meta offload

-- What a machine file of `offload` may use, for editors with the Lua language server (LuaLS). Put this file where the
-- server looks for libraries (the setting `Lua.workspace.library`). It is never run.

---A build machine, as `build_machine { … }` takes it.
---@class offload.BuildMachine
---The host name of the build machine, or its address.
---@field name string
---The user account on the build machine to use when connecting to it over SSH. The key pair must not be protected with
---a passphrase, to allow non-interactive logins.
---@field user string
---The machine's SSH public host key in OpenSSH form, `"ssh-ed25519 AAAA… comment"`, or a list of such keys. It
---authenticates the machine when it is connected to; on the machine it stands in a file such as
---`/etc/ssh/ssh_host_ed25519_key.pub`. Types: ssh-ed25519, ecdsa-sha2-nistp256/384/521, ssh-rsa.
---@field host_key string|string[]
---The system types the build machine supports, for example `{ "x86_64-linux", "i686-linux" }`.
---@field systems string[]
---Deprecated: one system type. Use `systems`.
---@field system? string
---Port number of the SSH server on the machine. Default 22.
---@field port? integer
---The SSH private key file to use when connecting to the machine, in OpenSSH format; absolute, or beginning with `~/`.
---Default: the first of `~/.ssh/id_ed25519`, `~/.ssh/id_ecdsa`, `~/.ssh/id_rsa` that is there.
---@field private_key? string
---File name of the Unix-domain socket guix-daemon is listening to on that machine. Default
---`"/var/guix/daemon-socket/socket"`.
---@field daemon_socket? string
---The compression of the SSH connection. `"auto"`: each way where it saves time, going by the transfers before, the first
---not; the spellings of Guix, such as `"zlib@openssh.com,zlib"`, are understood. Default `"auto"`.
---@field compression? "auto"|"zlib"|"none"|string
---Has no effect: the SSH library has one level only. Accepted, with a warning, since Guix has it.
---@field compression_level? integer
---The number of builds that may run in parallel on the machine: its build slots. Default 1.
---@field parallel_builds? integer
---A relative speed factor, above 0. Machines with a higher one are preferred. Default 1.0.
---@field speed? number
---Specific features supported by the machine, for example `"kvm"`. Derivations can request features by name, and are
---built on matching machines only. Default none.
---@field features? string[]
---The load threshold above which the machine is disregarded: the load of the last minute over the number of cores.
---`false` ignores the load. Default 0.8.
---@field overload_threshold? number|false
---Bytes that must be free in the store of the machine. Default 100 MiB.
---@field minimum_disk_space? integer|number
---Seconds that connecting may take, authentication included. Default 5.
---@field connect_timeout? number
---Seconds without any byte from the machine after which the connection counts as dead. Default 60.
---@field stall_timeout? number
---Seconds of silence after which the machine is asked for a sign of life. Default 15.
---@field keepalive_interval? number
---Seconds for which a connection to the machine is kept open after a build, for the next one; up to 600. `false`: it
---is not kept. Default 30.
---@field keep_connection? number|false
---How many uploads, and how many downloads, may take place at the same time. Default 4.
---@field max_transfers? integer
---`false`: the machine is never chosen. Default true.
---@field enabled? boolean
---The program and arguments that carry the SSH connection on their standard input and output, for example
---`{ "ssh", "-W", "%h:%p", "bastion" }`. `%h` and `%p` stand for name and port. No shell is involved.
---@field proxy_command? string[]
---Whether the machine's daemon may use substitutes for inputs. Default true.
---@field use_substitutes? boolean
---Whether this machine takes a build; asked after the function of the pool, and both must agree.
---@field accepts? offload.Accepts
---How well this machine suits a build; asked instead of the function of the pool.
---@field score? offload.ScoreFunction
---Fields that are not given here come from this table: a plain one, or another build machine.
---@field inherit? table

---The head itself, as `local_machine { … }` takes it. When it has the best score, the daemon is told to build locally.
---@class offload.LocalMachine
---A name to show. Default `"localhost"`.
---@field name? string
---The system types it supports. Default: its own.
---@field systems? string[]
---A relative speed factor, above 0. Default 1.0.
---@field speed? number
---Specific features it supports. Default none.
---@field features? string[]
---The load threshold above which it is disregarded; `false` ignores the load. Default 0.8.
---@field overload_threshold? number|false
---`false`: never chosen. Default true.
---@field enabled? boolean
---Whether it takes a build; asked after the function of the pool, and both must agree.
---@field accepts? offload.Accepts
---How well it suits a build; asked instead of the function of the pool.
---@field score? offload.ScoreFunction
---Fields that are not given here come from this table.
---@field inherit? table

---What a machine file returns: the list of machines, and with names the settings of the pool.
---@class offload.Pool
---@field [integer] offload.BuildMachine|offload.LocalMachine
---Whether a machine takes a build; asked for each machine that matches. Default: always.
---@field accepts? offload.Accepts
---How well a machine suits a build: the highest score is chosen. Default: speed / (1 + load).
---@field score? offload.ScoreFunction
---What to do when every matching machine is busy: wait for one, or build locally if the head may and can. Default
---`"wait"`.
---@field when_busy? "wait"|"local"|fun(request: offload.Request): "wait"|"local"
---What to do when no matching machine answers. Default `"local"`.
---@field when_unreachable? "wait"|"local"|fun(request: offload.Request): "wait"|"local"
---How many machines are tried for one build. Default 3.
---@field max_attempts? integer
---Seconds that a build may wait for a build slot once it has been accepted. Default 600.
---@field wait_for_slot? number
---What Lua code may use.
---@field limits? offload.Limits

---What Lua code may use. `evaluate` and `memory` must be written as numbers here: they are read before the file runs.
---@class offload.Limits
---Seconds to evaluate the machine file. Default 5.
---@field evaluate? number
---Seconds for all calls of functions during one decision. Default 0.5.
---@field decide? number
---Bytes of memory. Default 64 MiB.
---@field memory? integer|number

---True, or false and why not.
---@alias offload.Accepts fun(request: offload.Request, machine: offload.BuildMachine|offload.LocalMachine): boolean, string?

---A number, the higher the better; or false and why this machine is not to be chosen. May be called more than once for a
---build.
---@alias offload.ScoreFunction fun(request: offload.Request, machine: offload.BuildMachine|offload.LocalMachine, status: offload.Status): number|false, string?

---What the daemon asks for: one derivation to be built. The same table for all calls of one decision.
---@class offload.Request
---System type of the derivation.
---@field system string
---Features that the machine must support.
---@field features string[]
---File name of the derivation.
---@field derivation string
---Name of the derivation: its file name without directory, hash and `.drv`.
---@field name string
---Whether the daemon has room for a local build.
---@field wants_local boolean
---Seconds of silence after which a build has failed; 0: no limit.
---@field max_silent_time integer
---Seconds after which a build has failed; 0: no limit.
---@field build_timeout integer
---Reads the derivation from the store.
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
---Load of the last minute over the number of cores.
---@field load? number
---Load averages over 1, 5 and 15 minutes.
---@field loadavg? number[]
---Number of cores.
---@field cores? integer
---Percentage of the last 10 seconds in which some process waited for a processor.
---@field pressure? number
---Bytes of memory that are available.
---@field free_memory? integer
---Bytes free in the store.
---@field free_disk? integer
---Inodes free in the store.
---@field free_inodes? integer
---Build slots that are taken.
---@field running? integer
---Seconds its clock is ahead of the head's.
---@field clock_skew? number
---Seconds since this was measured; nil: never.
---@field age? number
---Whether it answered when it was asked last.
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
