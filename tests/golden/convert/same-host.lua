-- Converted from same-host.scm by 'offload convert'.
-- Fields that have their default are left out. Guix's default compression is zlib, here it is "auto"; the
-- default private key of Guix is ~/.ssh/id_rsa of the account that runs the daemon.
-- Values that the program computed are fixed now. If its list came from another source, such as an inventory, this
-- file can read that too: it is a program in Lua. Check it with 'offload eval'.

-- One host twice, for two systems: as it should be, and with another number of slots.

return {
  -- same-host.scm:3
  build_machine {
    name = "mixed.example.org",
    user = "offload",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "~/.ssh/id_rsa",
  },

  -- same-host.scm:10
  build_machine {
    name = "mixed.example.org",
    user = "offload",
    systems = { "aarch64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "~/.ssh/id_rsa",
    speed = 0.5,
  },

  -- same-host.scm:11
  -- not the same parallel_builds as in the entry of line 3 for the same machine: 'offload eval' wants them to agree
  build_machine {
    name = "mixed.example.org",
    user = "offload",
    systems = { "armhf-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "~/.ssh/id_rsa",
    parallel_builds = 2,
  },
}
-- warnings:
-- same-host.scm:11: warning: not the same parallel_builds as in the entry of line 3 for the same machine: 'offload eval' wants them to agree
