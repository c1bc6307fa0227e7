/**
 * @typedef {object} Side one thing that is measured
 * @property {string} name
 * @property {() => Promise<number>} measure one round; resolves with the figure
 *
 * @typedef {object} Case one line of the result
 * @property {string} name
 * @property {string} unit
 * @property {"lower" | "higher"} better
 * @property {() => Promise<number>} ours one round
 * @property {Side} [peer] measured in the same rounds, in turns
 * @property {string} [missing] why there is no peer here
 * @property {{ text: string, met: (ours: number, ratio: number | undefined) => boolean }} [goal]
 *
 * @typedef {object} Suite
 * @property {string} name
 * @property {string} description
 * @property {(context: Context) => Promise<Case[]>} prepare
 *
 * @typedef {object} Context
 * @property {string} folder private scratch folder of the suite, removed afterwards
 * @property {(work: () => unknown) => void} onEnd registers clean-up, run last first also after a failure
 *
 * @typedef {object} Row
 * @property {string} suite
 * @property {string} name
 * @property {string} unit
 * @property {number | null} ours median
 * @property {number | null} peer median
 * @property {string | null} peerName
 * @property {number | null} ratio ours by peer
 * @property {string | null} goal
 * @property {number} rounds
 * @property {boolean | null} met whether the goal is met
 * @property {string} better
 * @property {[number, number] | null} oursRange lowest and highest round
 * @property {[number, number] | null} peerRange
 * @property {string} [skipped] why nothing was compared, or measured at all
 */

/** Fewer rounds than these say little on a machine that others use too. */
export const DEFAULT_ROUNDS = 7

/** Thrown by a suite that cannot run on this machine: told, and no failure. */
export class Skip extends Error {}

/** A limit in full: 0.85 is not 0.8. */
const shown = limit => (Number.isInteger(limit) ? limit.toFixed(1) : String(limit))

/** Goals, made from numbers so that text and check cannot differ. */
export const goals = {
  atMost: (limit, unit) => ({ text: `at most ${limit} ${unit}`, met: ours => ours <= limit }),
  atLeast: (limit, unit) => ({ text: `at least ${limit} ${unit}`, met: ours => ours >= limit }),
  ratioAtLeast: limit => ({
    text: `at least ${shown(limit)} of the peer`,
    met: (_, ratio) => ratio !== undefined && ratio >= limit,
  }),
  ratioAtMost: limit => ({
    text: `at most ${shown(limit)} of the peer`,
    met: (_, ratio) => ratio !== undefined && ratio <= limit,
  }),
}

/** The middle value; of an even number the mean of the two. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
}

const range = values => (values.length > 0 ? [Math.min(...values), Math.max(...values)] : null)

/** Runs every case once; who goes first alternates, so that neither side always finds the machine warm. */
async function playRound(entries, round) {
  for (const { subject, ours, peer } of entries) {
    const takeOurs = async () => ours.push(await subject.ours())
    const takePeer = async () => subject.peer && peer.push(await subject.peer.measure())
    const order = round % 2 === 0 ? [takeOurs, takePeer] : [takePeer, takeOurs]
    for (const take of order) await take()
  }
}

/** @returns {Row} */
function toRow(suite, rounds, { subject, ours, peer }) {
  const oursMedian = median(ours)
  const peerMedian = peer.length > 0 ? median(peer) : undefined
  const ratio = peerMedian === undefined ? undefined : oursMedian / peerMedian
  return {
    suite: suite.name,
    name: subject.name,
    unit: subject.unit,
    ours: oursMedian,
    peer: peerMedian ?? null,
    peerName: subject.peer?.name ?? null,
    ratio: ratio ?? null,
    goal: subject.goal?.text ?? null,
    rounds,
    met: subject.goal ? subject.goal.met(oursMedian, ratio) : null,
    better: subject.better,
    oursRange: range(ours),
    peerRange: range(peer),
    ...(subject.missing && { skipped: subject.missing }),
  }
}

/** @returns {Row} a row for what could not be measured here */
export function skippedRow(suite, name, reason) {
  const nothing = {
    ours: null,
    peer: null,
    peerName: null,
    ratio: null,
    goal: null,
    met: null,
    oursRange: null,
    peerRange: null,
  }
  return { suite, name, unit: "", rounds: 0, better: "", ...nothing, skipped: reason }
}

/**
 * Measures one suite: a round that does not count, then `rounds` rounds over all its cases.
 * @param {Suite} suite
 * @param {number} rounds
 * @param {string} folder
 * @param {(text: string) => void} progress
 * @returns {Promise<Row[]>}
 */
export async function runSuite(suite, rounds, folder, progress) {
  const endings = []
  try {
    const cases = await suite.prepare({ folder, onEnd: work => endings.unshift(work) })
    const entries = cases.map(subject => ({ subject, ours: [], peer: [] }))
    await playRound(
      entries.map(entry => ({ ...entry, ours: [], peer: [] })),
      0,
    )
    for (let round = 0; round < rounds; round++) {
      progress(`${suite.name}: round ${round + 1} of ${rounds}`)
      await playRound(entries, round)
    }
    return entries.map(entry => toRow(suite, rounds, entry))
  } finally {
    for (const end of endings) await end()
  }
}
