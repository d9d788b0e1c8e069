-- Converted from computed.scm by 'offload convert'.
-- Fields that have their default are left out. Guix's default compression is zlib, here it is "auto"; the
-- default private key of Guix is ~/.ssh/id_rsa of the account that runs the daemon.
-- Values that the program computed are fixed now. If its list came from another source, such as an inventory, this
-- file can read that too: it is a program in Lua. Check it with 'offload eval'.

local base = {
  user = "offload",
  systems = { "x86_64-linux", "i686-linux" },
  host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
  private_key = "/etc/guix/offload_ed25519",
}

return {
  -- computed.scm:11
  build_machine {
    inherit = base,
    name = "node1.example.org",
    parallel_builds = 8,
  },

  -- computed.scm:22
  build_machine {
    inherit = base,
    name = "special.example.org",
    parallel_builds = 8,
    features = { "benchmark" },
  },

  -- computed.scm:11
  build_machine {
    inherit = base,
    name = "node2.example.org",
    parallel_builds = 4,
  },

  -- computed.scm:11
  build_machine {
    inherit = base,
    name = "node3.example.org",
    parallel_builds = 8,
  },

  -- computed.scm:11
  build_machine {
    inherit = base,
    name = "node4.example.org",
    parallel_builds = 4,
  },

  -- computed.scm:11
  build_machine {
    inherit = base,
    name = "node5.example.org",
    parallel_builds = 8,
  },

  -- computed.scm:11
  build_machine {
    inherit = base,
    name = "node6.example.org",
    parallel_builds = 4,
  },
}
-- warnings:
