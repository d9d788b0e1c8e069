;;; Makes the golden files of the store formats with the real programs.  See README.md beside this file.
;;; Runs in `guix repl`; takes the directory to write to, and a version or "":
;;; with a version only export streams are made, with it in their names.

(use-modules (guix store) (guix derivations) (guix serialization) (guix base16) (guix base32)
             (gcrypt hash) (gcrypt pk-crypto)
             (ice-9 binary-ports) (ice-9 match) (ice-9 popen) (ice-9 rdelim)
             (rnrs bytevectors) (srfi srfi-1))

(define-values (out version)
  (apply values (take-right (command-line) 2)))
(define everything? (string-null? version))
(define (file . parts) (string-append out "/" (string-concatenate parts)))
(define (directory name)
  (unless (file-exists? (file name)) (mkdir (file name))))

(define (copy from to)
  (copy-file from to)
  (chmod to #o644))

(define (save-drv drv)
  (when everything?
    (let ((name (derivation-file-name drv)))
      (copy name (file "drv/" (basename name))))))

(define (save-nar item name)
  (when everything?
    (call-with-output-file (file "nar/" name ".nar")
      (lambda (port) (write-file item port))
      #:binary #t)))

(define (save-export store name items)
  (call-with-output-file (file "export/" name (if everything? "" (string-append "-" version)) ".export")
    (lambda (port) (export-paths store items port #:sign? #t))
    #:binary #t))

(define (authenticate key digest)
  "The complete signature of DIGEST, a bytevector, as the real `guix authenticate' makes it."
  (let* ((hex  (bytevector->base16-string digest))
         (temp (tmpnam)))
    (call-with-output-file temp
      (lambda (port)
        (format port "sign ~a:~a ~a:~a~%" (string-length key) key (string-length hex) hex)))
    (let* ((pipe  (open-input-pipe (string-append "guix authenticate < " temp)))
           (code  (read-delimited " " pipe))
           (count (string->number (read-delimited ":" pipe)))
           (text  (get-bytevector-n pipe count)))
      (unless (string=? code "0") (error "guix authenticate" code text))
      (close-pipe pipe)
      (delete-file temp)
      text)))

(define (save-signature kind digest)
  (when everything?
    (call-with-output-file (file "signature/" kind "-" (bytevector->base16-string digest) ".sig")
      (lambda (port)
        (put-bytevector port (authenticate (file "keys/" kind ".sec") digest)))
      #:binary #t)))

(define tree-builder
  ;; Names with spaces, a byte that is no UTF-8, names whose order differs between bytes and locales.
  "PATH=/usr/bin:/bin
mkdir $out $dev; cd $out
: > empty; mkdir empty-directory bin
printf 'echo hello\\n' > bin/run; chmod +x bin/run
: > bin/nothing; chmod +x bin/nothing
printf 1234567 > seven; printf 12345678 > eight; printf 123456789 > nine
printf x > 'name with  spaces'; printf y > \"$(printf 'caf\\303\\251')\"; printf z > \"$(printf 'raw-\\377')\"
printf a > a; printf b > B; mkdir a.d a-d; printf c > a.d/c
mkdir -p deep/er/and/deeper; printf d > deep/er/and/deeper/file
ln -s a link; ln -s /does/not/exist dangling; ln -s ../.. bin/up; ln -s $dev dev
ln -s 'target with spaces' \"link with spaces\"
printf '%s' $out > out-path; printf '%s' $dev > $dev/dev-path; mkdir $dev/include; printf h > $dev/include/h.h")

(for-each directory '("nar" "export" "drv" "signature"))

(with-store store
  (set-build-options store #:use-substitutes? #f #:offload? #f)
  (let* ((foo   (add-text-to-store store "foo" "hello\n"))
         (bar   (add-text-to-store store "bar" (string-append "see " foo "\n") (list foo)))
         (vec   (derivation store "vec" "/bin/sh" '("-c" "echo \"hi\tthere\\n\" > $out")
                            #:env-vars '(("a" . "1") ("name" . "vec")) #:outputs '("out" "dev") #:system "x86_64-linux"))
         ;; What really builds must have its builder in the store.
         (sh    (add-to-store store "sh" #t "sha256" "/usr/bin/dash"))
         (base  (derivation store "base" sh '("-c" "echo $dev > $out; echo x > $dev")
                            #:outputs '("out" "dev") #:system "x86_64-linux" #:sources (list sh)))
         (one   (let ((bv (make-bytevector 32 0))) (bytevector-u8-set! bv 31 1) bv))
         (fixed (lambda (name . arguments)
                  (apply derivation store name "/bin/sh" '("-c" "exit 1") #:system "x86_64-linux" arguments)))
         (flat  (fixed "fx" #:hash-algo 'sha256 #:hash one))
         (recursive (fixed "fx-recursive" #:hash-algo 'sha256 #:hash one #:recursive? #t))
         (other (map (lambda (algorithm size)
                       (fixed (string-append "fx-" (symbol->string algorithm)) #:hash-algo algorithm
                              #:hash (make-bytevector size 7) #:recursive? #t))
                     (if everything? '(sha1 sha512 sha3-256 sha3-512 blake2s-256) '(sha1 sha512))
                     '(20 64 32 64 32)))
         ;; Another way to the same fixed output: its path and its hash modulo are those of FLAT.
         (flat-again (fixed "fx" #:hash-algo 'sha256 #:hash one #:env-vars '(("mirror" . "2"))))
         (tree  (derivation store "tree" sh `("-c" ,tree-builder) #:outputs '("out" "dev")
                            #:system "x86_64-linux" #:inputs (list (derivation-input base '("dev" "out")))
                            #:sources (list sh foo bar)))
         (top   (derivation store "top-1.0" "/bin/sh"
                            (list "-c" "# \"quoted\" back\\slash\r\n\ttab caf\xe9; > $out")
                            #:system "x86_64-linux"
                            #:inputs (append (list (derivation-input tree '("dev"))
                                                   (derivation-input tree '("out"))
                                                   (derivation-input vec '("dev"))
                                                   (derivation-input flat '("out"))
                                                   (derivation-input flat-again '("out"))
                                                   (derivation-input recursive '("out")))
                                             (map (lambda (drv) (derivation-input drv '("out"))) other))
                            #:sources (list bar foo)
                            #:env-vars '(("requiredSystemFeatures" . "kvm  big-parallel")
                                         ("preferLocalBuild" . "1") ("empty" . "")
                                         ("multi\nline" . "\"\\\n\r\t")))))
    (for-each save-drv (cons* vec base flat recursive flat-again tree top other))
    (build-derivations store (list tree))
    (let ((outputs (map (lambda (id) (derivation->output-path tree id)) '("out" "dev"))))
      ;; Guile cannot spell every name in the first output: its nar comes from the daemon, in outputs.export.
      (save-nar (string-append (first outputs) "/deep") "deep")
      (save-nar (string-append (first outputs) "/bin") "bin")
      (save-nar (second outputs) "tree-dev")
      (save-nar foo "text")
      (save-nar (string-append (first outputs) "/bin/nothing") "empty-executable")
      (save-nar (string-append (first outputs) "/link") "symlink")
      (save-nar (string-append (first outputs) "/empty-directory") "empty-directory")
      (save-export store "text" (list foo))
      (save-export store "reference" (list foo bar))
      (save-export store "outputs" (list foo bar (second outputs) (first outputs)))
      (save-export store "derivation" (list (derivation-file-name vec))))))

(save-signature "ecc" (sha256 (string->utf8 "hello")))
(save-signature "rsa" (sha256 (string->utf8 "hello")))
;; Digests that look like text are printed as such: a token, a quoted string, quoted Latin-1.
(save-signature "ecc" (string->utf8 "token-that-looks-like-text/32+ok"))
(save-signature "ecc" (string->utf8 "32 bytes, \"quoted\" \\ \t\n\r\b\f\v ''''"))
(save-signature "ecc" (u8-list->bytevector (iota 32 200)))
(save-signature "ecc" (u8-list->bytevector (append (iota 8 65) (iota 24 200))))
(save-signature "ecc" (make-bytevector 32 0))
(save-signature "ecc" (make-bytevector 32 255))
(for-each (lambda (index)
            (save-signature "ecc" (sha256 (u8-list->bytevector (list index)))))
          (iota 24))
