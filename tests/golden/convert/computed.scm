(use-modules (srfi srfi-1)
             (ice-9 match))

(display "this must not get into the answer\n")
(system "echo nor must this")

(define key
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEKs831EXTrTVaTLqh6acnr0Ofnt/lLVungfkNlXm/IR root@fast")

(define (node number)
  (build-machine
   (name (string-append "node" (number->string number) ".example.org"))
   (systems '("x86_64-linux" "i686-linux"))
   (user "offload")
   (private-key "/etc/guix/offload_ed25519")
   (host-key key)
   (parallel-builds (if (even? number) 4 8))))

(define first-node (node 1))

(append (list first-node
              (build-machine
               (inherit first-node)
               (name "special.example.org")
               (features '("benchmark"))))
        (map node (iota 5 2)))
