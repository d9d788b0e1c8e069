;;; The package of 'offload', from this directory:
;;;
;;;   guix build -f guix.scm       builds it
;;;   guix package -f guix.scm     installs it
;;;   guix shell -D -f guix.scm    is what it takes to build it with cargo
;;;
;;; The sources of the Rust libraries are those that Cargo.lock lists, with the hashes that stand there, so that there is no list
;;; to maintain here.  That takes Guix 1.5: older ones have no 'cargo-inputs-from-lockfile'.

(use-modules (git)
             (gnu packages compression)
             (gnu packages gnupg)
             (gnu packages pkg-config)
             (gnu packages rust)
             (gnu packages tls)
             (guix build-system cargo)
             (guix gexp)
             (guix git)
             (guix git-download)
             (guix import crate)
             ((guix licenses) #:prefix license:)
             (guix packages)
             (guix utils)
             (ice-9 regex)
             (ice-9 textual-ports))

(define directory
  (canonicalize-path (current-source-directory)))

(define is-checkout?
  (file-exists? (in-vicinity directory ".git")))

(define version
  (match:substring
   (string-match "\nversion = \"([^\"]+)\""
                 (call-with-input-file (in-vicinity directory "Cargo.toml")
                   get-string-all))
   1))

;; For 'offload --version'.
(define commit
  (and is-checkout?
       (with-repository directory repository
         (string-take (oid->string (reference-target (repository-head repository)))
                      12))))

(define part-of-source?
  (or (and is-checkout? (git-predicate directory))
      (lambda (file stat)
        (not (member file (list (in-vicinity directory "target")
                                (in-vicinity directory ".git")))))))

(package
  (name "offload")
  (version version)
  (source (local-file directory "offload-checkout"
                      #:recursive? #t
                      #:select? part-of-source?))
  (build-system cargo-build-system)
  (arguments
   (list #:rust rust-1.88             ;the oldest that will do
         #:install-source? #f
         ;; The tests need root and hosts that 'tests/setup' makes.
         #:tests? #f
         #:phases
         #~(modify-phases %standard-phases
             (add-before 'build 'prepare
               (lambda _
                 #$@(if commit
                        #~((setenv "OFFLOAD_COMMIT" #$commit))
                        #~())
                 ;; The copies that come with the Rust libraries, and that the tests have seen.  The library libssh2 in Guix 1.5
                 ;; is too old: it cannot reach the socket of a daemon.
                 (unsetenv "LIBSSH2_SYS_USE_PKG_CONFIG")
                 (unsetenv "LIBSQLITE3_SYS_USE_PKG_CONFIG")))
             (add-after 'install 'install-link
               ;; The program that guix-daemon runs: the environment variable GUIX names it.
               (lambda _
                 (let ((directory (string-append #$output "/lib/offload")))
                   (mkdir-p directory)
                   (symlink "../../bin/offload"
                            (string-append directory "/guix")))))
             (add-after 'install 'install-documents
               ;; Manual pages, and completions for shells.
               (lambda _
                 (invoke (string-append #$output "/bin/offload")
                         "documents" #$output))))))
  (native-inputs (list pkg-config))
  (inputs (cons* libgcrypt openssl zlib
                 (cargo-inputs-from-lockfile
                  (in-vicinity directory "Cargo.lock"))))
  (home-page "https://guix.gnu.org")
  (synopsis "Build hook for the Guix daemon that offloads builds over SSH")
  (description
   "Offload is a build hook for guix-daemon.  It chooses a build machine from a pool that a Lua program describes, sends missing
inputs over SSH, has the machine's own daemon build, and brings the outputs back.  When a machine fails, the build goes on at
another one.")
  (license license:gpl3+))
