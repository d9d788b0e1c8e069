#!/bin/sh
# The smallest hook there can be: it accepts, and copies what the test prepared to where the outputs belong.
[ "$1" = offload ] || exec /usr/bin/guix "$@"
read -r request
echo "# accept" >&2
read -r inputs
read -r outputs
for output in $outputs; do cp -a "/staged/${output##*/}" "$output"; done
