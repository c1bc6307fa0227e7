/** What is said of a layer on its way, in docker's words. */
export const STATES = {
  waiting: "Waiting",
  reading: "Pulling",
  done: "Pull complete",
  exists: "Already exists",
} as const
