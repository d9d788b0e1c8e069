;;; Prints the build machines of a machines.scm for 'offload convert'.
;;;
;;; 'guix repl --type=machine' reads these expressions on its standard input and answers each on its standard output.
;;; The last one is a call of 'dump', which is appended to this text.  It puts standard error in the place of standard
;;; output while the file is loaded, so that nothing the file prints gets into the answer, and then writes a line
;;;
;;;   offload-convert JSON
;;;
;;; where JSON is {"machines": [MACHINE…]}, {"not-machines": "what it is instead"} or
;;; {"raised": {"message": …, "line": …, "column": …}}, and MACHINE maps the fields of Guix's <build-machine> record,
;;; whichever this version of Guix has, to their values.  A value JSON has no word for is {"other": "as Guile writes it"},
;;; and a location ["FILE", LINE].

(use-modules (ice-9 match)
             (ice-9 pretty-print)
             (srfi srfi-1))

(define (description x)
  "Return the beginning of what 'write' prints for X, which may be large or circular."
  (call-with-output-string
    (lambda (port)
      (truncated-print x #:port port #:width 60))))

(define (json-string str)
  (define (escape char)
    (cond ((memv char '(#\" #\\)) (string #\\ char))
          ((char<? char #\space)
           (string-append "\\u" (string-pad (number->string (char->integer char) 16) 4 #\0)))
          (else (string char))))
  (string-append "\"" (string-concatenate (map escape (string->list str))) "\""))

(define (json-object . entries)
  "Return an object; ENTRIES are pairs of a key and the JSON text of its value."
  (define (entry->string entry)
    (string-append (json-string (car entry)) ":" (cdr entry)))
  (string-append "{" (string-join (map entry->string entries) ",") "}"))

(define (json x)
  (cond ((string? x) (json-string x))
        ((boolean? x) (if x "true" "false"))
        ((exact-integer? x) (number->string x))
        ((and (real? x) (let ((x (exact->inexact x))) (not (or (inf? x) (nan? x)))))
         (number->string (exact->inexact x)))
        ((list? x) (string-append "[" (string-join (map json x) ",") "]"))
        (((@ (guix utils) location?) x)
         (json (list ((@ (guix utils) location-file) x) ((@ (guix utils) location-line) x))))
        (else (json-object (cons "other" (json (description x)))))))

(define (machine->json machine)
  (define type (record-type-descriptor machine))
  (define (field->entry field)
    (cons (symbol->string field) (json ((record-accessor type field) machine))))
  (apply json-object (map field->entry (record-type-fields type))))

(define (raised->json key args form)
  "Return an object that describes the exception KEY with ARGS.  FORM holds the source properties of the top-level
expression that was being evaluated."
  (define (position properties)
    (list (cons "line" (json (and=> (assq-ref properties 'line) 1+)))
          (cons "column" (json (and=> (assq-ref properties 'column) 1+)))))
  (define (raised message properties)
    (json-object (cons "raised" (apply json-object (cons "message" (json message)) (position properties)))))
  (match (cons key args)
    (('quit . _)
     (raised "the file calls 'exit'" form))
    (('syntax-error who (? string? what) (? pair? where) . _)
     (raised (if who (format #f "~a: ~a" who what) what) where))
    (_
     (raised (call-with-output-string
               (lambda (port)
                 (print-exception port #f key args)))
             (if (eq? key 'read-error) '() form)))))

(define (load-machines file read-form)
  "Evaluate FILE in a module such as 'guix offload' uses, and return the JSON text of what it returns."
  (let ((module (make-fresh-user-module))
        (interface (resolve-interface '(guix scripts offload))))
    (module-use! module interface)
    (let ((machines (save-module-excursion
                     (lambda ()
                       (set-current-module module)
                       (with-fluids ((current-reader read-form))
                         (primitive-load file)))))
          ;; It may be a macro, which only 'eval' makes a procedure of.
          (machine? (eval 'build-machine? module)))
      (cond ((not (list? machines))
             (json-object (cons "not-machines" (json (description machines)))))
            ((find-tail (negate machine?) machines)
             => (lambda (tail)
                  (let ((position (1+ (- (length machines) (length tail)))))
                    (json-object
                     (cons "not-machines"
                           (json (format #f "a list whose item ~a is ~a" position (description (car tail)))))))))
            (else
             (json-object
              (cons "machines" (string-append "[" (string-join (map machine->json machines) ",") "]"))))))))

(define (dump file)
  (define answer-port
    (let ((port (dup->outport 1)))
      (fcntl port F_SETFD FD_CLOEXEC)
      (set-port-encoding! port "UTF-8")
      port))
  (define form '())
  (define (read-form port)
    (let ((expression (read port)))
      (when (and (equal? (port-filename port) file) (pair? expression))
        (set! form (source-properties expression)))
      expression))

  (dup2 2 1)
  (let ((answer (catch #t
                  (lambda ()
                    (with-input-from-string ""
                      (lambda ()
                        (load-machines file read-form))))
                  (lambda (key . args)
                    (raised->json key args form)))))
    (false-if-exception (force-output (current-output-port)))
    (false-if-exception (force-output (current-error-port)))
    (display (string-append "\noffload-convert " answer "\n") answer-port)
    (force-output answer-port)
    (primitive-_exit 0)))
