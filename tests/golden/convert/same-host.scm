;; One host twice, for two systems: as it should be, and with another number of slots.
(define this
  (build-machine
   (name "mixed.example.org")
   (systems '("x86_64-linux"))
   (user "offload")
   (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast")))

(list this
      (build-machine (inherit this) (systems '("aarch64-linux")) (speed 0.5))
      (build-machine (inherit this) (systems '("armhf-linux")) (parallel-builds 2)))
