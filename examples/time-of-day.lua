-- Desktop machines help at night and at the weekend; the server is there all the time.
local base = {
  user = "offload",
  private_key = "/etc/guix/offload_ed25519",
  systems = { "x86_64-linux" },
}

-- The machine file is evaluated for each request, so this is the present time.
local now = os.date("*t")
local working_day = now.wday >= 2 and now.wday <= 6
local working_hours = working_day and now.hour >= 8 and now.hour < 18

return {
  build_machine {
    inherit = base,
    name = "server.example.org",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    parallel_builds = 4,
  },
  build_machine {
    inherit = base,
    name = "desktop.example.org",
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINZ9bzbu8r99L1n0HwvG6VBx/5Ba5P4meUJgq7CKQDkI",
    enabled = not working_hours,
    speed = 1.5,
  },

  -- At night nobody waits at the head, so a build may as well wait for a machine.
  when_busy = working_hours and "local" or "wait",
  wait_for_slot = working_hours and 60 or 3600,
}
