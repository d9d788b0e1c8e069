-- The machines come from a JSON file beside this one, which another program writes.
local offload = require "offload"

local hosts = assert(offload.json.decode(assert(offload.read_file("inventory.json"))))

local pool = {}
for _, host in ipairs(hosts) do
  pool[#pool + 1] = build_machine {
    inherit = host,
    user = "offload",
    private_key = "/etc/guix/offload_ed25519",
  }
end

pool.when_busy = "local"
return pool
