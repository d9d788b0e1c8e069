-- A workstation that is woken up by the network. It goes to sleep when root on it runs `systemctl suspend`.
local offload = require "offload"

return {
  build_machine {
    name = "cellar.example.org",
    user = "offload",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    on_demand = {
      start = offload.wake_on_lan("00:16:3e:12:34:56", { address = "192.0.2.255" }),
      -- The command may not return, because the machine is gone by then.
      stop = { "/bin/sh", "-c", "ssh -o ConnectTimeout=5 power@cellar.example.org systemctl suspend; true" },
      start_after = 60,
    },
  },
}
