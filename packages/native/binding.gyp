{
  "targets": [
    {
      "target_name": "tsvmm_native",
      "sources": [
        "src/cc/addon.cc",
        "src/cc/check.cc",
        "src/cc/exit_table.cc",
        "src/cc/fds.cc",
        "src/cc/files.cc",
        "src/cc/io.cc",
        "src/cc/io_async.cc",
        "src/cc/mapping.cc",
        "src/cc/poller.cc",
        "src/cc/reservation.cc",
        "src/cc/ring.cc",
        "src/cc/socket.cc",
        "src/cc/vcpu.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=9",
        "NAPI_CPP_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        # A Worker that is being ended takes no exception: without this the whole process would end instead.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
      ],
      "cflags": ["-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden", "-fstack-protector-strong"],
      "cflags_cc": ["-std=c++17"],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-std=gnu++17", "-std=gnu++20"],
      "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,relro", "-Wl,-z,now"]
    }
  ]
}
