// Names, paths and small files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ttrpc.h"

namespace agent {

// Ids become parts of paths: 1..128 of [A-Za-z0-9_.-], not starting with a dot.
bool valid_id(std::string_view id);
// True for paths inside the agent's own directory that cannot lead out of it by name.
bool below_base(std::string_view path);
std::vector<std::string_view> split(std::string_view text, char separator);
// Whole decimal number; false for anything else.
bool parse_number(std::string_view text, uint64_t& out);

// mkdir -p. False with errno.
bool make_dirs(const std::string& path, unsigned mode);
// Opens what is there, writes, reports errno.
bool write_file(const std::string& path, std::string_view content);
// At most `max` bytes; empty when it cannot be read or is not a regular file of that kind.
std::string read_file(const std::string& path, size_t max);

}  // namespace agent
