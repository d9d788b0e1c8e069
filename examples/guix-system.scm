;;; A head on Guix System: guix-daemon runs 'offload' as its build hook, and the machine file is part of the configuration.
;;;
;;; What is particular stands in the middle; file systems and boot loader are those of no real machine.

(use-modules (gnu)
             (guix utils))

(define here (current-source-directory))

;; The package, from the sources of 'offload'; or import it from a channel that has it.
(define offload
  (load (in-vicinity here "../guix.scm")))

(operating-system
  (host-name "head")
  (bootloader (bootloader-configuration
                (bootloader grub-efi-bootloader)
                (targets '("/boot/efi"))))
  (file-systems (cons (file-system
                        (device (file-system-label "root"))
                        (mount-point "/")
                        (type "ext4"))
                      %base-file-systems))

  ;; In the system profile, whose name never changes.
  (packages (cons offload %base-packages))

  (services
   (cons
    ;; A link to the file in the store, which everybody may read: no place for secrets.
    (extra-special-file "/etc/guix/machines.lua"
                        (local-file "minimal.lua" "machines.lua"))
    (modify-services %base-services
      (guix-service-type
       config =>
       (guix-configuration
        (inherit config)
        (environment
         (cons "GUIX=/run/current-system/profile/lib/offload/guix"
               (guix-configuration-environment config)))))))))
