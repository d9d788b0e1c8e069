-- Machines in a network that is reached through one host only: `ssh -W` carries the connection there. The bastion sees
-- encrypted bytes; keys and host keys are those of the build machines.
local base = {
  user = "offload",
  private_key = "/etc/guix/offload_ed25519",
  systems = { "x86_64-linux" },
  connect_timeout = 10, -- two connections take longer than one
  proxy_command = {
    "ssh", "-o", "BatchMode=yes", "-i", "/etc/guix/offload_ed25519", "-W", "%h:%p", "jump@bastion.example.org",
  },
}

return {
  build_machine {
    inherit = base,
    name = "10.1.0.5",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
  },
  build_machine {
    inherit = base,
    name = "10.1.0.6",
    port = 2222,
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINZ9bzbu8r99L1n0HwvG6VBx/5Ba5P4meUJgq7CKQDkI",
  },
}
