;;; Builds what one s-expression on standard input describes, as any client of the daemon does:
;;;   ((options . ARGUMENTS-OF-SET-BUILD-OPTIONS) (derivations DERIVATION ...) (build NAME ...))
;;; with derivations in topological order, each an association list; see derivation.rs, which writes them.
;;;
;;; Says on standard output, fields separated by tabs:
;;;   derivation NAME PATH
;;;   output NAME ID PATH       each output of each derivation
;;;   built STATUS SECONDS      0, or the daemon's 1, 100 or 101; lost: the connection ended
;;;   error MESSAGE             after a status that is not 0, to the end of the output
;;; The build log goes to standard error, as the daemon sends it.

(use-modules (guix store) (guix derivations) (guix base16)
             (ice-9 match) (srfi srfi-1) (srfi srfi-34))

(define (say . fields)
  (display (string-join fields "\t"))
  (newline)
  (force-output))

(define* (field name alist #:optional (default '()))
  (or (assq-ref alist name) default))

(define (make store busybox description made)
  "Return the derivation of DESCRIPTION; its inputs are in MADE, an association list from names to derivations."
  (let* ((inputs (field 'inputs description))
         (files (map (match-lambda
                       ((variable file)
                        (list variable (add-to-store store (basename file) #t "sha256" file))))
                     (field 'files description)))
         (input-variables
          (map (match-lambda
                 ((variable name output)
                  (cons variable (derivation->output-path (assoc-ref made name) output))))
               inputs))
         (hash (field 'hash description #f)))
    (apply derivation store (field 'name description)
           (string-append busybox "/bin/busybox") (list "sh" "-c" (field 'script description))
           #:system (field 'system description)
           #:outputs (field 'outputs description)
           #:inputs (map (match-lambda
                           ((_ name output) (derivation-input (assoc-ref made name) (list output))))
                         inputs)
           #:sources (cons busybox (map second files))
           #:env-vars `(("PATH" . ,(string-append busybox "/bin"))
                        ("name" . ,(field 'name description))
                        ,@input-variables
                        ,@(map (match-lambda ((variable path) (cons variable path))) files)
                        ,@(map (match-lambda ((variable value) (cons variable value)))
                               (field 'environment description)))
           (match hash
             (#f '())
             ((algorithm hex recursive?)
              (list #:hash (base16-string->bytevector hex)
                    #:hash-algo (string->symbol algorithm)
                    #:recursive? recursive?))))))

(define (build store drvs)
  "Build DRVS; return the status and a message."
  (catch #t
    (lambda ()
      (guard (c ((store-protocol-error? c)
                 (values (number->string (store-protocol-error-status c)) (store-protocol-error-message c))))
        (build-derivations store drvs)
        (values "0" "")))
    (lambda (key . arguments)
      ;; Whatever the client trips over when the daemon goes away in the midst of a sentence.
      (values "lost" (format #f "~s ~s" key arguments)))))

(define (main request)
  (with-store store
    (apply set-build-options store (field 'options request))
    (let* ((busybox (add-to-store store "busybox" #t "sha256" "/var/lab/busybox"))
           (made (fold (lambda (description made)
                         (acons (field 'name description) (make store busybox description made) made))
                       '()
                       (field 'derivations request))))
      (for-each (match-lambda
                  ((name . drv)
                   (say "derivation" name (derivation-file-name drv))
                   (for-each (match-lambda
                               ((id . path) (say "output" name id path)))
                             (derivation->output-paths drv))))
                made)
      (let ((start (get-internal-real-time)))
        (call-with-values
            (lambda ()
              (build store (map (lambda (name) (assoc-ref made name)) (field 'build request))))
          (lambda (status message)
            (say "built" status
                 (number->string (exact->inexact (/ (- (get-internal-real-time) start)
                                                    internal-time-units-per-second))))
            (unless (string=? status "0")
              (say "error" message))))))))

(main (read))
