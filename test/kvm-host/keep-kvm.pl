# Keeps two idle virtual machines for as long as the KVM test host runs.
#
# KVM switches code paths by patching its own instructions: when the first vCPU without a local APIC comes and the last
# one goes, when a local APIC is first enabled, when the first VM comes and the last one goes. QEMU's emulation now and
# then misses such a change on another processor, which then takes one breakpoint for ever: the host locks up. A vCPU of
# either kind that is always there means that nothing is ever patched again.
use strict;
use warnings;

# linux/kvm.h
my ($CREATE_VM, $CREATE_VCPU, $CREATE_IRQCHIP) = (0xAE01, 0xAE41, 0xAE60);
my @kept;

sub machine {
    my ($has_apic) = @_;
    open(my $kvm, "+<", "/dev/kvm") or die "no KVM: $!\n";
    my $vm_fd = ioctl($kvm, $CREATE_VM, 0) or die "no VM: $!\n";
    open(my $vm, "+<&=", $vm_fd) or die "$!\n";
    ioctl($vm, $CREATE_IRQCHIP, 0) or die "no interrupt controller: $!\n" if $has_apic;
    my $vcpu_fd = ioctl($vm, $CREATE_VCPU, 0) or die "no vCPU: $!\n";
    push @kept, $kvm, $vm, $vcpu_fd;
}

$| = 1;
machine(0);
machine(1);
print "kept\n";
sleep;
