// What the registry client needs of undici, in the bundle's place for all of it: the rest (fetch, web sockets, caches,
// mocks, HTTP/2) would double what `pull` loads before it begins.
const { setFlagsFromString } = require("node:v8")

// undici's parser is WebAssembly. After a few answers V8 would compile it once more, optimised, and a short program would
// not end before that is done: 0.2 s and 35 MiB to parse faster what are a few headers. Bodies do not go through it.
setFlagsFromString("--wasm-tiering-budget=1000000000")

// undici's own index does this for every kind of request that it has.
require("undici/lib/dispatcher/dispatcher.js").prototype.request = require("undici/lib/api/api-request.js")

exports.Agent = require("undici/lib/dispatcher/agent.js")
exports.buildConnector = require("undici/lib/core/connect.js")
