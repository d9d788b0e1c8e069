#!/bin/sh
# Makes the golden files anew: as root, inside the root directory of a host with Guix 1.5 (/proc and /dev mounted) that
# has no key pair and no daemon yet, with make.scm beside this script. Takes the directory to write to. With a
# second argument, the version of another Guix, it uses the keys that are there and adds the export streams of that one.
set -eu
out=$1
version=${2-}
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C.UTF-8
mkdir -p "$out/keys"

if [ -n "$version" ]; then
    install -m 444 "$out/keys/ecc.pub" /etc/guix/signing-key.pub
    install -m 400 "$out/keys/ecc.sec" /etc/guix/signing-key.sec
else

guix archive --generate-key
cp /etc/guix/signing-key.pub "$out/keys/ecc.pub"
cp /etc/guix/signing-key.sec "$out/keys/ecc.sec"

export GUIX_CONFIGURATION_DIRECTORY="$out/rsa"
mkdir -p "$GUIX_CONFIGURATION_DIRECTORY"
guix archive --generate-key='(genkey (rsa (nbits 4:2048)))'
mv "$out/rsa/signing-key.pub" "$out/keys/rsa.pub"
mv "$out/rsa/signing-key.sec" "$out/keys/rsa.sec"
rm -r "$out/rsa"
unset GUIX_CONFIGURATION_DIRECTORY

guix archive --authorize < "$out/keys/ecc.pub"
guix archive --authorize < "$out/keys/rsa.pub"
cp /etc/guix/acl "$out/keys/acl"

fi

guix-daemon --disable-chroot --no-substitutes &
daemon=$!
trap 'kill $daemon' EXIT
while [ ! -S /var/guix/daemon-socket/socket ]; do sleep 0.1; done
guix repl -- "$here/make.scm" "$out" "$version"
guix gc --verify=contents
chmod 644 "$out"/*/*.*
