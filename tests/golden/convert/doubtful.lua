-- Converted from doubtful.machines by 'offload convert'.
-- Each machine must run guix-daemon, and the two must have authorized each other's signing keys; see
-- 'offload authorize'. Nix connects by means of ssh, and so honours ~/.ssh/config and $NIX_SSHOPTS: names, accounts,
-- ports, keys and jump hosts that are set there must be given here.
-- Fields that have their default are left out. Check it with 'offload eval'.

-- What has no counterpart, and what is missing.

return {
  -- doubtful.machines:2
  -- the system 'builtin' has no counterpart
  -- it has no host key, which is required: run 'offload add --user nix nokey.example.org' to get it
  -- the parameter 'remote-program' of its URI has no counterpart
  -- the parameter 'max-connections' of its URI has no counterpart
  build_machine {
    name = "nokey.example.org",
    user = "nix",
    systems = { "x86_64-linux" },
    -- host_key = "…",
    private_key = "/etc/nix/key",
  },

  -- doubtful.machines:3
  -- left out: 'local' is no machine that is reached by SSH
  -- local_machine {} makes the head take part

  -- doubtful.machines:4
  -- left out: 'https://cache.example.org' is no machine that is reached by SSH

  -- doubtful.machines:5
  -- left out: '@/etc/nix/more-machines' includes another file; convert that one too

  -- doubtful.machines:6
  -- it names no account: "root" is what ssh takes when root runs it
  -- Guix has no system 'aarch64-darwin'
  -- its key is not an absolute file name, which is needed here
  -- nothing is known of a ninth column: 'extra'
  build_machine {
    name = "mac.example.org",
    user = "root",
    systems = { "aarch64-darwin", "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "relative/key",
    parallel_builds = 2,
  },
}
-- warnings:
-- doubtful.machines:2: warning: the system 'builtin' has no counterpart
-- doubtful.machines:2: warning: it has no host key, which is required: run 'offload add --user nix nokey.example.org' to get it
-- doubtful.machines:2: warning: the parameter 'remote-program' of its URI has no counterpart
-- doubtful.machines:2: warning: the parameter 'max-connections' of its URI has no counterpart
-- doubtful.machines:3: warning: left out: 'local' is no machine that is reached by SSH
-- doubtful.machines:4: warning: left out: 'https://cache.example.org' is no machine that is reached by SSH
-- doubtful.machines:5: warning: left out: '@/etc/nix/more-machines' includes another file; convert that one too
-- doubtful.machines:6: warning: Guix has no system 'aarch64-darwin'
-- doubtful.machines:6: warning: its key is not an absolute file name, which is needed here
-- doubtful.machines:6: warning: nothing is known of a ninth column: 'extra'
