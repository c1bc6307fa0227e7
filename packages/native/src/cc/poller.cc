// uv_poll on a duplicate of an fd. See src/poller.ts for what it promises.
#include <uv.h>

#include <memory>

#include "check.h"

namespace tsvmm {
namespace {

constexpr int kError = 4;
static_assert(UV_READABLE == 1 && UV_WRITABLE == 2, "src/poller.ts has these numbers");

class PollerObject;

/** Lives until libuv has closed it, which is after its PollerObject let go of it. */
struct Handle {
  uv_poll_t poll;
  UniqueFd fd;
  // SAFETY: cleared by PollerObject::Release, which also runs before a PollerObject dies.
  PollerObject* owner;
  napi_async_cleanup_hook_handle cleanup;
};

class PollerObject : public Napi::ObjectWrap<PollerObject> {
 public:
  explicit PollerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PollerObject>(info) {
    Napi::Env env = info.Env();
    int fd = CheckFd(info[0]);
    int events = CheckEvents(info[1]);
    callback_ = Napi::Persistent(CheckFunction(info[2], "callback"));
    context_ = std::make_unique<Napi::AsyncContext>(env, "tsvmm:Poller");
    auto handle = std::make_unique<Handle>();
    handle->fd = Duplicate(env, fd);
    uv_loop_t* loop = nullptr;
    if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);
    int error = uv_poll_init(loop, &handle->poll, handle->fd.Get());
    if (error != 0) ThrowErrno(env, -error, "epoll_ctl");
    handle->poll.data = handle.get();
    handle->owner = this;
    handle_ = handle.release();
    napi_add_async_cleanup_hook(env, OnTeardown, handle_, &handle_->cleanup);
    error = Start(events);
    if (error != 0) {
      Release();
      ThrowErrno(env, -error, "epoll_ctl");
    }
    Ref();
  }
  ~PollerObject() override { Release(); }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativePoller",
                       {InstanceMethod<&PollerObject::SetEvents>("setEvents"),
                        InstanceMethod<&PollerObject::HoldLoop<uv_ref>>("ref"),
                        InstanceMethod<&PollerObject::HoldLoop<uv_unref>>("unref"),
                        InstanceMethod<&PollerObject::Close>("close"),
                        InstanceAccessor<&PollerObject::GetClosed>("closed")});
  }

 private:
  static int CheckEvents(Napi::Value value) { return static_cast<int>(CheckInteger(value, "events", 0, 3)); }

  /** 0 or a negative errno. */
  int Start(int events) {
    return events == 0 ? uv_poll_stop(&handle_->poll) : uv_poll_start(&handle_->poll, events, OnReady);
  }

  /** Gives the handle to libuv for closing. */
  void Release() {
    if (handle_ == nullptr) return;
    Handle* handle = std::exchange(handle_, nullptr);
    handle->owner = nullptr;
    uv_close(reinterpret_cast<uv_handle_t*>(&handle->poll), OnClosed);
  }

  static void OnClosed(uv_handle_t* closed) {
    auto* handle = static_cast<Handle*>(closed->data);
    napi_remove_async_cleanup_hook(handle->cleanup);
    delete handle;
  }

  /** The isolate ends (a Worker, or the process) with the poller still open. */
  static void OnTeardown(napi_async_cleanup_hook_handle, void* data) {
    auto* handle = static_cast<Handle*>(data);
    if (handle->owner != nullptr) handle->owner->Release();
  }

  static void OnReady(uv_poll_t* poll, int status, int events) {
    PollerObject* self = static_cast<Handle*>(poll->data)->owner;
    if (self == nullptr) return;
    Napi::Env env = self->Env();
    Napi::HandleScope scope(env);
    // Keeps the object over a close() and a garbage collection inside the callback.
    [[maybe_unused]] Napi::Object keep = self->Value();
    if (status < 0) uv_poll_stop(poll);
    int happened = status < 0 ? kError : events & (UV_READABLE | UV_WRITABLE);
    CallBack(*self->context_, self->callback_, {Napi::Number::New(env, happened)});
  }

  void SetEvents(const Napi::CallbackInfo& info) {
    int events = CheckEvents(info[0]);
    int error = handle_ == nullptr ? 0 : Start(events);
    if (error != 0) ThrowErrno(info.Env(), -error, "epoll_ctl");
  }

  template <void (*change)(uv_handle_t*)>
  void HoldLoop(const Napi::CallbackInfo&) {
    if (handle_ != nullptr) change(reinterpret_cast<uv_handle_t*>(&handle_->poll));
  }

  void Close(const Napi::CallbackInfo&) {
    if (handle_ == nullptr) return;
    Release();
    Unref();
  }

  Napi::Value GetClosed(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), handle_ == nullptr);
  }

  Handle* handle_ = nullptr;
  Napi::FunctionReference callback_;
  std::unique_ptr<Napi::AsyncContext> context_;
};

}  // namespace

void RegisterPoller(Napi::Env env, Napi::Object exports) { exports.Set("Poller", PollerObject::Define(env)); }

}  // namespace tsvmm
