;; 'guix repl -t machine' evaluates this on a build machine whose SSH server does not forward to sockets. It connects
;; standard input and output to the daemon's socket, and passes bytes in both directions until either side ends.
;;
;; The client sends nothing before it has read "offload-relay ready": the REPL discards the bytes that it has read ahead.
(begin
  (use-modules (ice-9 binary-ports) (ice-9 threads))

  (define (reply . words)
    (newline)
    (for-each display (cons "offload-relay " words))
    (newline)
    (force-output))

  (define (relay from to)
    ;; Guile reads single bytes from an unbuffered port, so this sets a block buffer.
    (setvbuf from 'block 65536)
    (catch #t
      (lambda ()
        (let loop ((bytes (get-bytevector-some from)))
          (unless (eof-object? bytes)
            (put-bytevector to bytes)
            (force-output to)
            (loop (get-bytevector-some from)))))
      (const #f))
    ;; A status other than 0 distinguishes the end of the relay from a session that the SSH server has closed.
    (primitive-_exit 2))

  ;; An SSH server with 'ChannelTimeout' closes a session on which no data moves. Text on standard error is data.
  (define (keep-alive)
    (sleep 2)
    (catch #t
      (lambda ()
        (newline (current-error-port))
        (force-output (current-error-port)))
      (lambda failure
        (primitive-_exit 2)))
    (keep-alive))

  (define daemon
    (catch 'system-error
      (lambda ()
        (let ((daemon (socket AF_UNIX SOCK_STREAM 0)))
          (connect daemon AF_UNIX "@SOCKET@")
          daemon))
      (lambda failure
        (reply "failed " (strerror (system-error-errno failure)))
        (primitive-_exit 1))))

  (drain-input (current-input-port))
  (reply "ready")
  ;; There is a thread for each direction, so that neither waits for the other.
  (let ((input (current-input-port)))
    (call-with-new-thread (lambda () (relay input daemon))))
  (call-with-new-thread keep-alive)
  (relay daemon (current-output-port)))
