# Run as the first process of a mount and a PID namespace: sets up one root directory over a common one, starts
# guix-daemon in it, and ends when standard input does. Everything it started and mounted ends with it.
#
# Usage: up.sh COMMON-ROOT DIRECTORY GUIX-DAEMON-OPTION...
set -eu
common=$1 top=$2
shift 2
# The old /proc still shows the outer names of processes: the fourth field is the parent, this shell.
echo "pid $(cut -d ' ' -f 4 /proc/self/stat)"
mount -t overlay overlay -o "lowerdir=$common,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
# The store and the state are directories that can be seen from outside too: SQLite wants a name without magic links.
mkdir -p gnu/store var/guix
mount --bind "$top/store" gnu/store
mount --bind "$top/state" var/guix
mount -t proc proc proc
mount --rbind /dev dev
mount --make-rslave dev
mount -t tmpfs tmpfs run
# One key in a thousand has a number that looks like text to libgcrypt; Guix 1.2.0 in the C locale writes that one damaged.
while [ ! -f etc/guix/signing-key.sec ] || grep -q '"' etc/guix/signing-key.sec; do
    rm -f etc/guix/signing-key.sec etc/guix/signing-key.pub
    chroot . guix archive --generate-key >"$top/generate-key.log" 2>&1
done
chroot . guix-daemon "$@" >"$top/daemon.log" 2>&1 &
echo started
read -r _ || true
