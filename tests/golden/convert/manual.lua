-- Converted from manual.machines by 'offload convert'.
-- Each machine must run guix-daemon, and the two must have authorized each other's signing keys; see
-- 'offload authorize'. Nix connects by means of ssh, and so honours ~/.ssh/config and $NIX_SSHOPTS: names, accounts,
-- ports, keys and jump hosts that are set there must be given here.
-- Fields that have their default are left out. Check it with 'offload eval'.

-- The shape of the manual's examples.

-- For 'accepts': refuses the builds that do not require all of these features.
local function only_for(features)
  return function(request)
    local required = {}
    for _, feature in ipairs(request.features) do
      required[feature] = true
    end
    for _, feature in ipairs(features) do
      if not required[feature] then
        return false, "only for builds that require " .. feature
      end
    end
    return true
  end
end

return {
  -- manual.machines:2
  build_machine {
    name = "scratchy.example.org",
    user = "nix",
    systems = { "i686-linux", "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "/home/nix/.ssh/id_scratchy_auto",
    parallel_builds = 8,
    features = { "kvm" },
  },

  -- manual.machines:3
  -- a comment
  build_machine {
    name = "itchy.example.org",
    port = 2222,
    user = "root",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    parallel_builds = 8,
    speed = 2.5,
  },

  -- manual.machines:4
  -- it names no account: "root" is what ssh takes when root runs it
  -- Nix's armv7l-linux is armhf-linux in Guix
  build_machine {
    name = "poochie.example.org",
    user = "root",
    systems = { "i686-linux", "armhf-linux" },
    host_key = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL70OIgiFmd+jT8Lq5O0QVAOQeSA3OGRCD/3YSIWyuV6kOYxNl/l+pexXWu/IO7tUteA4su6Ms9skdLoQB8VNcA=",
    private_key = "/root/.ssh/id_poochie",
    speed = 2.0,
    features = { "kvm", "benchmark" },
    accepts = only_for { "benchmark" },
  },

  -- manual.machines:4
  -- it takes no builds at the same time: it is never chosen
  build_machine {
    name = "2001:db8::7",
    user = "nix",
    systems = { "x86_64-linux" },
    host_key = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL70OIgiFmd+jT8Lq5O0QVAOQeSA3OGRCD/3YSIWyuV6kOYxNl/l+pexXWu/IO7tUteA4su6Ms9skdLoQB8VNcA=",
    compression = "zlib",
    enabled = false,
    features = { "a", "b", "c" },
    accepts = only_for { "b", "c" },
  },
}
-- warnings:
