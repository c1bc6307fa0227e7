import { fileURLToPath } from "node:url"

/** The checkout's root folder. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "")

/** Everything that the scripts make and that is not a build result lives here; removing it is always safe. */
export const CACHE = `${ROOT}/.cache`
