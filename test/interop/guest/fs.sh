# Runs as busybox sh in the test guest. Each line "NAME: VALUE" on the console is looked at by the test.
say() { echo "$1: $2"; }
sum() { sha256sum | cut -d' ' -f1; }

mkdir -p /shared /fixed
mount -t virtiofs shared /shared
mount -t virtiofs fixed /fixed
say "fs from-host" "$(sum < /shared/from-host)"
dd if=/dev/urandom of=/shared/from-guest bs=1M count=16 2>/dev/null
say "fs from-guest" "$(sum < /shared/from-guest)"
mkdir /shared/folder && cd /shared/folder
for i in $(seq 300); do echo $i > file-$i; done
say "fs names" "$(ls | wc -l)"
mv file-1 moved && ln moved link && ln -s moved symlink && rm file-2
say "fs links" "$(stat -c %h moved) $(readlink symlink) $(cat symlink)"
cd /
umount /shared
mount -t virtiofs shared /shared
say "fs again" "$(sum < /shared/from-guest)"
echo x > /fixed/file 2>/dev/null || say "fs read-only" "$(cat /fixed/file)"
