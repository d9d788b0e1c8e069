-- Machines that have much in common: what is not given comes from the table in `inherit`.
local base = {
  user = "offload",
  private_key = "/etc/guix/offload_ed25519",
  systems = { "x86_64-linux", "i686-linux" },
  parallel_builds = 4,
}

local function node(number, host_key)
  return build_machine { inherit = base, name = ("node%d.example.org"):format(number), host_key = host_key }
end

local first = node(1, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u")

return {
  first,
  node(2, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINZ9bzbu8r99L1n0HwvG6VBx/5Ba5P4meUJgq7CKQDkI"),
  node(3, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILAKwhCLNVwY6ZpMp4bI6NJ4IWL45Jk0ap1tBCy5yCkJ"),
  -- The first one again, for another system: the entries share their build slots.
  build_machine { inherit = first, systems = { "aarch64-linux" }, speed = 0.2 },
}
