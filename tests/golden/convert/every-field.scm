;; Every field, once with its default and once without.
(list (build-machine
       (name "plain.example.org")
       (systems '("x86_64-linux"))
       (user "offload")
       (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast"))

      (build-machine
       (name "fast.example.org")
       (port 2222)
       (systems (list "x86_64-linux" "i686-linux"))
       (user "alice")
       (private-key "/etc/guix/offload_ed25519")
       (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast")
       (compression "none")
       (compression-level 9)
       (daemon-socket "/srv/guix/daemon socket")
       (overload-threshold 3/2)
       (parallel-builds 16)
       (speed 2)
       (features '("kvm" "big-parallel")))

      ;; The field is deprecated, and the load of this machine is of no interest.
      (build-machine
       (name "arm.example.org")
       (system "aarch64-linux")
       (user "offload")
       (host-key "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL70OIgiFmd+jT8Lq5O0QVAOQeSA3OGRCD/3YSIWyuV6kOYxNl/l+pexXWu/IO7tUteA4su6Ms9skdLoQB8VNcA=")
       (compression "zlib")
       (compression-level 6)
       (speed .25)
       (overload-threshold #f))

      (build-machine
       (name "2001:db8::7")
       (systems '("x86_64-linux"))
       (user "offload")
       (private-key "/etc/guix/\"quoted\" and\ttabbed \\ über")
       (host-key "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL70OIgiFmd+jT8Lq5O0QVAOQeSA3OGRCD/3YSIWyuV6kOYxNl/l+pexXWu/IO7tUteA4su6Ms9skdLoQB8VNcA=")
       (parallel-builds 0)))
