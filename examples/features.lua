-- Who takes what. A derivation's `requiredSystemFeatures` are matched without any function; these go further.
local base = {
  user = "offload",
  private_key = "/etc/guix/offload_ed25519",
  systems = { "x86_64-linux" },
}

local function has(list, item)
  for _, other in ipairs(list) do
    if other == item then return true end
  end
  return false
end

return {
  build_machine {
    inherit = base,
    name = "large.example.org",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    features = { "kvm", "big-parallel" },
    parallel_builds = 2,
    speed = 3,
    -- Kept free for what asks for it.
    accepts = function(request)
      return has(request.features, "big-parallel"), "only builds that require big-parallel"
    end,
  },
  build_machine {
    inherit = base,
    name = "small.example.org",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINZ9bzbu8r99L1n0HwvG6VBx/5Ba5P4meUJgq7CKQDkI",
    features = { "kvm" },
    parallel_builds = 8,
  },

  -- For all machines: sources are fetched by the head, which has the mirrors.
  accepts = function(request)
    local out = request:read_derivation().outputs.out
    if out and out.hash then return false, "a fixed output: the head fetches it" end
    return true
  end,
}
