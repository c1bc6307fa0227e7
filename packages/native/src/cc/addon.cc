#include "check.h"

namespace tsvmm {
namespace {

void SetErrorClass(const Napi::CallbackInfo& info) {
  auto* instance = info.Env().GetInstanceData<Instance>();
  instance->error_class = Napi::Persistent(CheckFunction(info[0], "errorClass"));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Instance());
  Export<SetErrorClass>(env, exports, "setErrorClass");
  RegisterFds(env, exports);
  RegisterFiles(env, exports);
  RegisterMapping(env, exports);
  RegisterPoller(env, exports);
  RegisterReservation(env, exports);
  RegisterSockets(env, exports);
  RegisterIo(env, exports);
  RegisterExitTable(env, exports);
  RegisterVcpu(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(tsvmm_native, Init)

}  // namespace tsvmm
