-- Converted from every-field.scm by 'offload convert'.
-- Fields that have their default are left out. Guix's default compression is zlib, here it is "auto"; the
-- default private key of Guix is ~/.ssh/id_rsa of the account that runs the daemon.
-- Values that the program computed are fixed now. If its list came from another source, such as an inventory, this
-- file can read that too: it is a program in Lua. Check it with 'offload eval'.

-- Every field, once with its default and once without.

return {
  -- every-field.scm:2
  build_machine {
    name = "plain.example.org",
    user = "offload",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "/root/.ssh/id_rsa",
  },

  -- every-field.scm:8
  build_machine {
    name = "fast.example.org",
    port = 2222,
    user = "alice",
    systems = { "x86_64-linux", "i686-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast",
    private_key = "/etc/guix/offload_ed25519",
    daemon_socket = "/srv/guix/daemon socket",
    compression = "none",
    parallel_builds = 16,
    speed = 2.0,
    features = { "kvm", "big-parallel" },
    overload_threshold = 1.5,
  },

  -- every-field.scm:24
  -- The field is deprecated, and the load of this machine is of no interest.
  -- its 'system', which is deprecated, has become 'systems'
  -- compression-level 6 has no counterpart: libssh2 has one level only
  build_machine {
    name = "arm.example.org",
    user = "offload",
    systems = { "aarch64-linux" },
    host_key = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL70OIgiFmd+jT8Lq5O0QVAOQeSA3OGRCD/3YSIWyuV6kOYxNl/l+pexXWu/IO7tUteA4su6Ms9skdLoQB8VNcA=",
    private_key = "/root/.ssh/id_rsa",
    compression = "zlib",
    speed = 0.25,
    overload_threshold = false,
  },

  -- every-field.scm:34
  -- it takes no builds at the same time: it is never chosen
  build_machine {
    name = "2001:db8::7",
    user = "offload",
    systems = { "x86_64-linux" },
    host_key = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL70OIgiFmd+jT8Lq5O0QVAOQeSA3OGRCD/3YSIWyuV6kOYxNl/l+pexXWu/IO7tUteA4su6Ms9skdLoQB8VNcA=",
    private_key = "/etc/guix/\"quoted\" and\u{9}tabbed \\ über",
    enabled = false,
  },
}
-- warnings:
-- every-field.scm:24: warning: compression-level 6 has no counterpart: libssh2 has one level only
