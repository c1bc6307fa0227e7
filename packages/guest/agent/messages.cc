#include "messages.h"

namespace agent {

// Found by argument type from the templates of WireReader.
static bool decode(std::string_view in, Storage& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.driver); break;
      case 3: r.get(out.source); break;
      case 4: r.get(out.fstype); break;
      case 5: r.append(out.options); break;
      case 6: r.get(out.mount_point); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, User& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.uid); break;
      case 2: r.get(out.gid); break;
      case 3: r.append(out.additional_gids); break;
      case 4: r.get(out.username); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Capabilities& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.append(out.bounding); break;
      case 2: r.append(out.effective); break;
      case 3: r.append(out.inheritable); break;
      case 4: r.append(out.permitted); break;
      case 5: r.append(out.ambient); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Rlimit& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.type); break;
      case 2: r.get(out.hard); break;
      case 3: r.get(out.soft); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Box& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.height); break;
      case 2: r.get(out.width); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, ProcessSpec& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.terminal); break;
      case 2: r.get_message(out.console_size); break;
      case 3: r.get_message(out.user); break;
      case 4: r.append(out.args); break;
      case 5: r.append(out.env); break;
      case 6: r.get(out.cwd); break;
      case 7: r.get_message(out.capabilities); break;
      case 8: r.append_message(out.rlimits); break;
      case 9: r.get(out.no_new_privileges); break;
      case 11: r.get(out.oom_score_adj); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Root& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.path); break;
      case 2: r.get(out.readonly); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Mount& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.destination); break;
      case 2: r.get(out.source); break;
      case 3: r.get(out.type); break;
      case 4: r.append(out.options); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Namespace& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.type); break;
      case 2: r.get(out.path); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Device& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.path); break;
      case 2: r.get(out.type); break;
      case 3: r.get(out.major); break;
      case 4: r.get(out.minor); break;
      case 5: r.get(out.mode); break;
      case 6: r.get(out.uid); break;
      case 7: r.get(out.gid); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Resources::Memory& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.limit); break;
      case 2: r.get(out.reservation); break;
      case 3: r.get(out.swap); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Resources::Cpu& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.shares); break;
      case 2: r.get(out.quota); break;
      case 3: r.get(out.period); break;
      case 6: r.get(out.cpus); break;
      case 7: r.get(out.mems); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Resources::Pids& out) {
  WireReader r(in);
  while (r.next())
    if (r.field() == 1) r.get(out.limit);
  return r.ok();
}

static bool decode(std::string_view in, Resources& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 2: r.get_message(out.memory); break;
      case 3: r.get_message(out.cpu); break;
      case 4: r.get_message(out.pids); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, KeyValue& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.key); break;
      case 2: r.get(out.value); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, LinuxSpec& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 3: r.append_message(out.sysctl); break;
      case 4: r.get_message(out.resources); break;
      case 6: r.append_message(out.namespaces); break;
      case 7: r.append_message(out.devices); break;
      case 10: r.append(out.masked_paths); break;
      case 11: r.append(out.readonly_paths); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Spec& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 2: r.get_message(out.process); break;
      case 3: r.get_message(out.root); break;
      case 4: r.get(out.hostname); break;
      case 5: r.append_message(out.mounts); break;
      case 8: r.get_message(out.linux_spec); break;
    }
  return r.ok();
}

bool decode(std::string_view in, CreateSandboxRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.hostname); break;
      case 2: r.append(out.dns); break;
      case 3: r.append_message(out.storages); break;
      case 5: r.get(out.sandbox_id); break;
    }
  return r.ok();
}

bool decode(std::string_view in, CreateContainerRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.exec_id); break;
      case 5: r.append_message(out.storages); break;
      case 6: r.get_message(out.spec); break;
      case 9: r.get(out.ports.in); break;
      case 10: r.get(out.ports.out); break;
      case 11: r.get(out.ports.err); break;
    }
  return r.ok();
}

bool decode(std::string_view in, ExecProcessRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.exec_id); break;
      case 4: r.get_message(out.process); break;
      case 5: r.get(out.ports.in); break;
      case 6: r.get(out.ports.out); break;
      case 7: r.get(out.ports.err); break;
    }
  return r.ok();
}

bool decode(std::string_view in, ProcessRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.exec_id); break;
      case 3: r.get(out.number); break;
      case 4: r.get(out.number2); break;
    }
  return r.ok();
}

bool decode_container(std::string_view in, ProcessRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.number); break;
    }
  return r.ok();
}

bool decode(std::string_view in, UpdateContainerRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get_message(out.resources); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, IpAddress& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.family); break;
      case 2: r.get(out.address); break;
      case 3: r.get(out.mask); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Interface& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.device); break;
      case 3: r.append_message(out.addresses); break;
      case 4: r.get(out.mtu); break;
    }
  return r.ok();
}

bool decode(std::string_view in, UpdateInterfaceRequest& out) {
  WireReader r(in);
  while (r.next())
    if (r.field() == 1) r.get_message(out.interface);
  return r.ok();
}

static bool decode(std::string_view in, Route& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.dest); break;
      case 2: r.get(out.gateway); break;
      case 3: r.get(out.device); break;
      case 6: r.get(out.family); break;
    }
  return r.ok();
}

static bool decode(std::string_view in, Routes& out) {
  WireReader r(in);
  while (r.next())
    if (r.field() == 1) r.append_message(out.routes);
  return r.ok();
}

bool decode(std::string_view in, UpdateRoutesRequest& out) {
  WireReader r(in);
  while (r.next())
    if (r.field() == 1) r.get_message(out.routes);
  return r.ok();
}

bool decode(std::string_view in, ReseedRequest& out) {
  WireReader r(in);
  while (r.next())
    if (r.field() == 2) r.get_bytes(out.data);
  return r.ok();
}

bool decode(std::string_view in, DateTimeRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.sec); break;
      case 2: r.get(out.usec); break;
    }
  return r.ok();
}

bool decode(std::string_view in, FilesRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.port); break;
      case 3: r.get(out.path); break;
      case 4: r.get(out.follow); break;
    }
  return r.ok();
}

bool decode(std::string_view in, UnpackRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.port); break;
      case 3: r.get(out.path); break;
      case 4: r.get(out.name); break;
      case 5: r.get(out.contents); break;
      case 6: r.get(out.keep_owner); break;
    }
  return r.ok();
}

bool decode(std::string_view in, SlotRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.address); break;
    }
  return r.ok();
}

bool decode(std::string_view in, ProcessorsRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.online); break;
    }
  return r.ok();
}

bool decode(std::string_view in, VolumeRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get_message(out.storage); break;
    }
  return r.ok();
}

bool decode(std::string_view in, ViewRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.container_id); break;
      case 2: r.get(out.source); break;
      case 3: r.get(out.target); break;
      case 4: r.get(out.read_only); break;
    }
  return r.ok();
}

bool decode(std::string_view in, CallRequest& out) {
  WireReader r(in);
  while (r.next()) switch (r.field()) {
      case 1: r.get(out.service); break;
      case 2: r.get(out.method); break;
      case 3: r.get_bytes(out.payload); break;
    }
  return r.ok();
}

}  // namespace agent
