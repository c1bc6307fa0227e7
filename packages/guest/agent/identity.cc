#include "child.h"
#include "paths.h"

namespace agent {

namespace {

// More than any sane file has; what lies beyond is not looked at.
constexpr size_t kFileMax = 4 << 20;
constexpr uint64_t kIdMax = 0xfffffffe;
constexpr size_t kGroupsMax = 1024;

bool parse_id(std::string_view text, uint32_t& out) {
  uint64_t value;
  if (!parse_number(text, value) || value > kIdMax) return false;
  out = static_cast<uint32_t>(value);
  return true;
}

// Calls with the fields of every line that has at least `fields` of them, until it answers true.
template <typename F>
bool find_line(const char* path, size_t fields, F&& call) {
  const std::string text = read_file(path, kFileMax);
  for (const auto line : split(text, '\n')) {
    if (line.empty() || line[0] == '#') continue;
    const auto parts = split(line, ':');
    if (parts.size() >= fields && call(parts)) return true;
  }
  return false;
}

using Parts = std::vector<std::string_view>;

// Sets ids, home and, when the user has an entry, its name.
bool find_user(std::string_view wanted, bool by_id, uint32_t id, Identity& out, std::string& name) {
  return find_line("/etc/passwd", 6, [&](const Parts& p) {
    uint32_t uid, gid;
    if (!parse_id(p[2], uid) || !parse_id(p[3], gid)) return false;
    if (by_id ? uid != id : p[0] != wanted) return false;
    out.uid = uid;
    out.gid = gid;
    if (!p[5].empty()) out.home.assign(p[5]);
    name.assign(p[0]);
    return true;
  });
}

bool find_group(std::string_view wanted, uint32_t& gid) {
  return find_line("/etc/group", 3, [&](const Parts& p) { return p[0] == wanted && parse_id(p[2], gid); });
}

void add_member_groups(const std::string& name, Identity& out) {
  find_line("/etc/group", 4, [&](const Parts& p) {
    uint32_t gid;
    if (!parse_id(p[2], gid)) return false;
    for (const auto member : split(p[3], ','))
      if (member == name) out.groups.push_back(gid);
    return out.groups.size() >= kGroupsMax;
  });
}

}  // namespace

bool resolve_user(const User& user, Identity& out, std::string& error) {
  std::string name;
  if (user.username.empty()) {
    find_user({}, true, user.uid, out, name);
    out.uid = user.uid;
    out.gid = user.gid;
  } else {
    const std::string_view text = user.username;
    const size_t colon = text.find(':');
    const std::string_view who = text.substr(0, colon);
    const std::string_view group = colon == text.npos ? std::string_view() : text.substr(colon + 1);
    uint32_t uid = 0;
    const bool numeric = who.empty() || parse_id(who, uid);
    // A name of digits wins over the number, as in docker.
    bool found = !who.empty() && find_user(who, false, 0, out, name);
    if (!found && numeric) {
      found = find_user({}, true, uid, out, name);
      out.uid = uid;
    }
    if (!found && !numeric) {
      error = "unable to find user " + std::string(who) + ": no matching entries in passwd file";
      return false;
    }
    if (!group.empty() && !find_group(group, out.gid) && !parse_id(group, out.gid)) {
      error = "unable to find group " + std::string(group) + ": no matching entries in group file";
      return false;
    }
    // Whoever names a group gets that one and no others.
    if (group.empty() && !name.empty()) add_member_groups(name, out);
  }
  out.groups.insert(out.groups.end(), user.additional_gids.begin(), user.additional_gids.end());
  return true;
}

}  // namespace agent
