-- Scoring by what is known of the machines: load, pressure, free disk. Any field of `status` may be nil.
local GiB = 2 ^ 30

local base = {
  user = "offload",
  private_key = "/etc/guix/offload_ed25519",
  systems = { "x86_64-linux" },
  minimum_disk_space = 5 * GiB,
  overload_threshold = 1.5,
}

return {
  build_machine {
    inherit = base,
    name = "berlin.example.org",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    speed = 2,
  },
  build_machine {
    inherit = base,
    name = "paris.example.org",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINZ9bzbu8r99L1n0HwvG6VBx/5Ba5P4meUJgq7CKQDkI",
  },

  score = function(request, machine, status)
    local score = machine.speed / (1 + (status.load or 0))
    if (status.pressure or 0) > 50 then score = score / 2 end
    if status.free_disk then
      -- Browsers need much room while they are built.
      if request.name:match("chromium") and status.free_disk < 60 * GiB then
        return false, "not enough room for a browser"
      end
      score = score * math.min(1, status.free_disk / (20 * GiB))
    end
    return score
  end,
}
