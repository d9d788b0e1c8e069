-- A machine of a cloud, whose command line prints its address. The image has this host key, made for it and for nothing else.
local offload = require "offload"

local function cloud(...)
  local output, message = offload.exec({ "cloud", ... }, { timeout = 120 })
  return output or error(message)
end

return {
  build_machine {
    name = "cloud1",
    user = "offload",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    parallel_builds = 8,
    on_demand = {
      start = function(machine)
        return { name = cloud("create", machine.name, "--image", "guix-builder"):match("%S+") }
      end,
      stop = function(machine)
        cloud("delete", machine.name, "--if-exists")
      end,
      idle = 300,
      min_up = 3000,
    },
  },
  on_demand = { max_running = 2, max_hours = 12 },
}
