import { hasFeature } from "../features.js"
import * as defs from "./defs.js"

/** What a queue is for. */
export type BalloonRole = "inflate" | "deflate" | "statistics" | "hinting" | "reporting"

const ROLES: readonly { readonly role: BalloonRole; readonly feature: bigint }[] = [
  { role: "inflate", feature: 0n },
  { role: "deflate", feature: 0n },
  { role: "statistics", feature: defs.VIRTIO_BALLOON_F_STATS_VQ },
  { role: "hinting", feature: defs.VIRTIO_BALLOON_F_FREE_PAGE_HINT },
  { role: "reporting", feature: defs.VIRTIO_BALLOON_F_PAGE_REPORTING },
]

/**
 * The role of each queue, by index, given what was negotiated.
 *
 * The specification numbers queues for good; many drivers (Linux among them) close the gaps that features leave
 * which were not negotiated. Where the number of a queue says nothing in the first reading, it is taken in the second.
 *
 * @see virtio 1.3, section 5.5.2
 */
export function queueRoles(features: bigint): readonly (BalloonRole | undefined)[] {
  const negotiated = ROLES.filter(({ feature }) => hasFeature(features, feature))
  return ROLES.map((entry, index) => (negotiated.includes(entry) ? entry : negotiated[index])?.role)
}
