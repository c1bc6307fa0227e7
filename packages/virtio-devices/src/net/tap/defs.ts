// Numbers of <linux/if_tun.h>, <linux/if.h> and <linux/sockios.h>.

export const TUN_DEVICE = "/dev/net/tun"

export const TUNSETIFF = 0x400454ca
export const TUNSETOFFLOAD = 0x400454d0
export const TUNSETVNETHDRSZ = 0x400454d8
export const TUNSETQUEUE = 0x400454d9
export const SIOCGIFMTU = 0x8921
export const SIOCGIFINDEX = 0x8933

export const IFF_TAP = 0x0002
export const IFF_MULTI_QUEUE = 0x0100
export const IFF_ATTACH_QUEUE = 0x0200
export const IFF_DETACH_QUEUE = 0x0400
export const IFF_NO_PI = 0x1000
export const IFF_VNET_HDR = 0x4000

export const TUN_F_CSUM = 0x01
export const TUN_F_TSO4 = 0x02
export const TUN_F_TSO6 = 0x04
export const TUN_F_TSO_ECN = 0x08
export const TUN_F_USO4 = 0x20
export const TUN_F_USO6 = 0x40

/** struct ifreq: a name, and a union whose first field stands at 16. */
export const IFREQ_SIZE = 40
export const IFNAMSIZ = 16
