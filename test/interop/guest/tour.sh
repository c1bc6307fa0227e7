# Runs as busybox sh in the test guest. Each line "NAME: VALUE" on the console is looked at by the test.
DISK=/dev/vda
say() { echo "$1: $2"; }
sum() { sha256sum | cut -d' ' -f1; }

say "block serial" "$(cat /sys/block/vda/serial)"
say "block queues" "$(ls /sys/block/vda/mq | wc -l)"
mount -t ext4 $DISK /mnt
say "block from-host" "$(sum < /mnt/from-host)"
dd if=/dev/urandom of=/mnt/from-guest bs=1M count=16 2>/dev/null
say "block from-guest" "$(sum < /mnt/from-guest)"
umount /mnt
# The driver lets go of the device and takes it again: a reset and a second negotiation.
DEVICE=$(basename "$(readlink /sys/block/vda/device)")
echo "$DEVICE" > /sys/bus/virtio/drivers/virtio_blk/unbind
echo "$DEVICE" > /sys/bus/virtio/drivers/virtio_blk/bind
mount -t ext4 -o ro $DISK /mnt
say "block again" "$(sum < /mnt/from-guest)"
umount /mnt
say "block second read-only" "$(cat /sys/block/vdb/ro)"
say "block second" "$(sum < /dev/vdb)"
mke2fs -F /dev/vdc > /dev/null && mount -t ext4 /dev/vdc /mnt
dd if=/dev/urandom of=/mnt/file bs=1M count=8 2>/dev/null
BEFORE=$(sum < /mnt/file)
umount /mnt
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/vdc /mnt
[ "$(sum < /mnt/file)" = "$BEFORE" ] && say "block own file system" same
umount /mnt
blkdiscard /dev/vdc && say "block discard" "$(tr -d '\0' < /dev/vdc | wc -c)"

say "entropy source" "$(cut -d. -f1 /sys/class/misc/hw_random/rng_current)"
say "entropy foreign bytes" "$(dd if=/dev/hwrng bs=1024 count=64 2>/dev/null | tr -d '\245' | wc -c)"
say "entropy bytes" "$(dd if=/dev/hwrng bs=1024 count=64 2>/dev/null | wc -c)"

dd if=/dev/urandom of=/piece bs=1M count=16 2>/dev/null
whole() { cat /piece /piece /piece /piece; }
say "vsock to host" "$(whole | sum)"
whole | vsock_pipe connect 2 1024 > /reply
say "vsock to host reply" "$(cat /reply)"
say "vsock from host" "$(vsock_pipe connect 2 1025 < /dev/null | sum)"
say "vsock refused" "$(vsock_pipe connect 2 9999 < /dev/null 2>&1)"
mkfifo /loop
vsock_pipe listen 5000 < /loop | tee /loop > /echoed
say "vsock echoed" "$(wc -c < /echoed)"
