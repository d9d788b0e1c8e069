;; Evaluated by 'guix repl -t machine' on a build machine whose SSH server does not forward to sockets: connects standard
;; input and output with the daemon's socket, byte by byte in both directions, until either side ends.
;;
;; Nothing may be sent before "offload-relay ready": what the REPL has read ahead by then is thrown away.
(begin
  (use-modules (ice-9 binary-ports) (ice-9 threads))

  (define (say . words)
    (newline)
    (for-each display (cons "offload-relay " words))
    (newline)
    (force-output))

  (define (relay from to)
    ;; A block buffer: from an unbuffered port Guile takes one byte at a time.
    (setvbuf from 'block 65536)
    (catch #t
      (lambda ()
        (let loop ((bytes (get-bytevector-some from)))
          (unless (eof-object? bytes)
            (put-bytevector to bytes)
            (force-output to)
            (loop (get-bytevector-some from)))))
      (const #f))
    ;; Not 0, so that the end of the relay can be told from that of a session that the SSH server closes.
    (primitive-_exit 2))

  ;; An SSH server with 'ChannelTimeout' closes a session on which nothing moves, and text on standard error moves.
  (define (show-life)
    (sleep 2)
    (catch #t
      (lambda ()
        (newline (current-error-port))
        (force-output (current-error-port)))
      (lambda failure
        (primitive-_exit 2)))
    (show-life))

  (define daemon
    (catch 'system-error
      (lambda ()
        (let ((daemon (socket AF_UNIX SOCK_STREAM 0)))
          (connect daemon AF_UNIX "@SOCKET@")
          daemon))
      (lambda failure
        (say "failed " (strerror (system-error-errno failure)))
        (primitive-_exit 1))))

  (drain-input (current-input-port))
  (say "ready")
  ;; A thread for each direction: neither waits for the other to be emptied.
  (let ((input (current-input-port)))
    (call-with-new-thread (lambda () (relay input daemon))))
  (call-with-new-thread show-life)
  (relay daemon (current-output-port)))
