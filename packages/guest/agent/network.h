// The guest's network interfaces: addresses and routes, as the host says.
#pragma once

#include "agent.h"
#include "messages.h"

namespace agent {

// Gives an interface its MTU and addresses, and brings it up.
Status set_interface(const Interface& interface);
Status add_routes(const Routes& routes);

}  // namespace agent
