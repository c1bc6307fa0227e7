// vCPU threads: KVM_RUN in a loop. See src/vcpu-loop.ts for what they promise.
//
// While a thread is parked JavaScript owns the kvm_run page, else the thread does. The one exception is immediate_exit,
// which both set: it makes the next KVM_RUN return at once, also one that is just about to start.
#include <uv.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <mutex>

#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "check.h"
#include "exit_table.h"
#include "mapping.h"

namespace tsvmm {
namespace {

/** Tells a thread to look at `wanted`; its handler is empty, and belongs to the process as every handler does. */
const int kick_signal = SIGRTMIN;
std::once_flag handler_once;

void InstallHandler() {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(kick_signal, &action, nullptr);
}

/** KVM_EXIT_MEMORY_FAULT, which Linux has since 6.8. */
constexpr uint32_t kMemoryFault = 39;

/** Bits that the callback receives; src/vcpu-loop.ts has these numbers. */
enum Event : uint32_t { kExit = 1, kPaused = 2, kEnded = 4, kSinkFilled = 8 };
enum class State { kRunning, kAtExit, kPaused };
enum class Wanted { kRun, kPause, kStop };

using Clock = std::chrono::steady_clock;
/** The most that a wake-up is taken to cost. */
constexpr Clock::duration kMaxWakeCost = std::chrono::milliseconds(1);
/** How many wake-ups long one turn of the event loop may go on with exits that follow each other at once. */
constexpr int kTurn = 8;

/** Looks for what may come soon instead of sleeping, if that paid the last time. */
class Lookout {
 public:
  /** `limit`: about what the sleep would cost. Looking for longer could not pay. */
  template <typename Ready>
  void Until(Clock::duration limit, Ready ready) {
    // Now and then all the same, as what was slow may have become quick.
    if (!paid_ && ++skipped_ % kProbe != 0) return;
    auto end = Clock::now() + limit;
    do {
      for (int i = 0; i < 32; i++) {
        paid_ = ready();
        if (paid_) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    } while (Clock::now() < end);
  }

 private:
  static constexpr uint32_t kProbe = 16;
  bool paid_ = true;
  uint32_t skipped_ = 0;
};

class VcpuObject;

/** A vCPU and its thread. Lives until libuv has closed `async`, which is after the thread has ended. */
class Vcpu {
 public:
  Vcpu(UniqueFd fd, RegionRef region, std::shared_ptr<ExitTable> table, std::string name)
      : fd_(std::move(fd)), region_(std::move(region)), table_(std::move(table)), name_(std::move(name)) {
    run_ = reinterpret_cast<kvm_run*>(region_->Data());
  }

  /** 0 or an errno. */
  int Start() {
    std::call_once(handler_once, InstallHandler);
    sigset_t all, before;
    sigfillset(&all);
    // A new thread has the mask of the one that makes it.
    pthread_sigmask(SIG_SETMASK, &all, &before);
    table_->users++;
    auto main = [](void* self) -> void* { return static_cast<Vcpu*>(self)->Main(), nullptr; };
    int error = pthread_create(&thread_, nullptr, main, this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error != 0) table_->users--;
    joinable_ = error == 0;
    return error;
  }

  /** JavaScript has answered the exit; false if there is none. */
  bool Resume() {
    std::lock_guard lock(mutex_);
    return state_ == State::kAtExit && Go();
  }
  void Pause() { Want(Wanted::kPause); }
  void Unpause() {
    std::lock_guard lock(mutex_);
    if (wanted_ != Wanted::kPause) return;
    wanted_ = Wanted::kRun;
    if (state_ != State::kPaused) return;
    // Not told yet, perhaps; then it never happened.
    events_.fetch_and(~uint32_t{kPaused});
    table_->users++;
    Go();
  }
  void Stop() { Want(Wanted::kStop); }
  /**
   * Waits for the thread, which has been told to stop or has ended, and lets go of the vCPU. The errno that KVM_RUN
   * failed with, or 0.
   */
  int Join() {
    if (std::exchange(joinable_, false)) pthread_join(thread_, nullptr);
    fd_.Reset();
    region_.reset();
    return error_;
  }

  /** The event loop was woken for this vCPU, and knows now what that takes. */
  Clock::duration Enter() {
    awake_ = true;
    Clock::duration cost = std::min(Clock::now() - posted_.load(), kMaxWakeCost);
    wake_cost_ = wake_cost_.load() + (cost - wake_cost_.load()) / 8;
    return wake_cost_;
  }
  /** What happened since the last call. */
  uint32_t TakeEvents() { return events_.exchange(0); }
  /** True if something more happens soon: the thread may have to wake up, and the guest to reach its next exit. */
  bool LookForEvents() {
    auto happened = [this] { return events_.load() != 0; };
    if (!happened() && state_.load() == State::kRunning) lookout_.Until(2 * wake_cost_.load(), happened);
    return happened();
  }
  void Leave() {
    awake_ = false;
    if (events_.load() != 0) Wake();
  }

  uv_async_t async;
  // SAFETY: cleared by VcpuObject::Release, which also runs before a VcpuObject dies.
  VcpuObject* owner = nullptr;
  napi_async_cleanup_hook_handle cleanup = nullptr;

 private:
  void Main() {
    pthread_setname_np(pthread_self(), name_.c_str());
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, kick_signal);
    pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
    while (error_ == 0 && Proceed()) Run();
    if (state_ != State::kPaused) table_->users--;
    Post(kEnded);
  }

  /** One KVM_RUN, and its exit. */
  void Run() {
    if (ioctl(fd_.Get(), KVM_RUN, 0) < 0) {
      // The kernel tells of memory that has to change hands by an error and an exit at once.
      bool is_exit = (errno == EFAULT || errno == EHWPOISON) && run_->exit_reason == kMemoryFault;
      if (errno == EINTR) incomplete_ = false;
      if (errno != EINTR && errno != EAGAIN && !is_exit) error_ = errno;
      if (!is_exit) return;
    }
    incomplete_ = true;
    bool wake = false;
    if (!table_->Answer(run_, region_->Size(), &wake)) {
      Park(State::kAtExit, kExit);
    } else if (wake) {
      Post(kSinkFilled);
    }
  }

  /** Does what is wanted before the next KVM_RUN; false to end. */
  bool Proceed() {
    for (;;) {
      SetImmediateExit(false);
      // Against Want: either the new value is seen here, or its immediate_exit comes after the line above.
      Wanted wanted = wanted_.load();
      if (wanted == Wanted::kStop) return false;
      if (wanted == Wanted::kRun) return true;
      if (incomplete_) {
        // The instruction that exited is completed by the next KVM_RUN, before it looks at immediate_exit.
        SetImmediateExit(true);
        return true;
      }
      Park(State::kPaused, kPaused);
    }
  }

  /** Gives the page to JavaScript until it says go, or wants the thread to stop. */
  void Park(State state, Event event) {
    std::unique_lock lock(mutex_);
    if (state == State::kPaused) {
      if (wanted_ != Wanted::kPause) return;
      table_->users--;
    }
    state_ = state;
    bool awake = Post(event);
    auto may_go = [this] { return state_.load() == State::kRunning || wanted_.load() == Wanted::kStop; };
    // Only if the answer need not wait for a wake-up first.
    if (awake && state == State::kAtExit) {
      lock.unlock();
      park_lookout_.Until(2 * wake_cost_.load(), may_go);
      lock.lock();
    }
    changed_.wait(lock, may_go);
  }

  /** Under mutex_. */
  bool Go() {
    state_ = State::kRunning;
    changed_.notify_one();
    return true;
  }

  void Want(Wanted wanted) {
    std::lock_guard lock(mutex_);
    if (wanted_ == Wanted::kStop || !joinable_) return;
    wanted_ = wanted;
    SetImmediateExit(true);
    pthread_kill(thread_, kick_signal);
    changed_.notify_one();
  }

  void SetImmediateExit(bool on) { __atomic_store_n(&run_->immediate_exit, on ? 1 : 0, __ATOMIC_SEQ_CST); }

  /** True if the event loop need not be woken for it. */
  bool Post(Event event) {
    events_.fetch_or(event);
    // Against Leave: either it sees the event, or it is seen here to have left.
    if (awake_.load()) return true;
    Wake();
    return false;
  }

  void Wake() {
    posted_ = Clock::now();
    uv_async_send(&async);
  }

  UniqueFd fd_;
  RegionRef region_;
  std::shared_ptr<ExitTable> table_;
  std::string name_;
  // SAFETY: the first byte of region_, which is as long as a kvm_run at least; not used once joined.
  kvm_run* run_;
  // JavaScript's thread only.
  pthread_t thread_;
  bool joinable_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Changed under mutex_.
  std::atomic<State> state_{State::kRunning};
  std::atomic<Wanted> wanted_{Wanted::kRun};

  std::atomic<uint32_t> events_{0};
  /** The event loop is at work for this vCPU, and looks at events_ before it leaves. */
  std::atomic<bool> awake_{false};
  std::atomic<Clock::time_point> posted_{Clock::time_point()};
  std::atomic<Clock::duration> wake_cost_{std::chrono::microseconds(50)};
  Lookout lookout_;

  // Only the thread's, until it has ended.
  Lookout park_lookout_;
  /** The last exit is not completed yet. */
  bool incomplete_ = false;
  int error_ = 0;
};

class VcpuObject : public Napi::ObjectWrap<VcpuObject> {
 public:
  explicit VcpuObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<VcpuObject>(info) {
    Napi::Env env = info.Env();
    int fd = CheckFd(info[0]);
    std::shared_ptr<ExitTable> table = CheckExitTable(info[2]);
    std::string name = CheckString(info[3], "name");
    callback_ = Napi::Persistent(CheckFunction(info[4], "callback"));
    context_ = std::make_unique<Napi::AsyncContext>(env, "tsvmm:VcpuLoop");
    RegionRef region = Region::Find(CheckArrayBuffer(env, info[1], "run").data);
    if (region == nullptr || region->Size() < sizeof(kvm_run)) ThrowType(env, "run", "the buffer of a mapped kvm_run");
    auto vcpu = std::make_unique<Vcpu>(Duplicate(env, fd), std::move(region), std::move(table), name.substr(0, 15));
    uv_loop_t* loop = nullptr;
    if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);
    int error = uv_async_init(loop, &vcpu->async, OnEvents);
    if (error != 0) ThrowErrno(env, -error, "eventfd2");
    vcpu->async.data = vcpu.get();
    vcpu->owner = this;
    vcpu_ = vcpu.release();
    napi_add_async_cleanup_hook(env, OnTeardown, vcpu_, &vcpu_->cleanup);
    error = vcpu_->Start();
    if (error != 0) {
      Release();
      ThrowErrno(env, error, "pthread_create");
    }
    Ref();
  }
  ~VcpuObject() override { Release(); }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeVcpuLoop",
                       {InstanceMethod<&VcpuObject::Resume>("resume"),
                        InstanceMethod<&VcpuObject::Tell<&Vcpu::Pause>>("pause"),
                        InstanceMethod<&VcpuObject::Tell<&Vcpu::Unpause>>("unpause"),
                        InstanceMethod<&VcpuObject::Tell<&Vcpu::Stop>>("stop"),
                        InstanceMethod<&VcpuObject::HoldLoop<uv_ref>>("ref"),
                        InstanceMethod<&VcpuObject::HoldLoop<uv_unref>>("unref")});
  }

 private:
  /** Ends the thread if it has not ended, and gives the handle to libuv for closing. */
  void Release() {
    if (vcpu_ == nullptr) return;
    Vcpu* vcpu = std::exchange(vcpu_, nullptr);
    vcpu->owner = nullptr;
    vcpu->Stop();
    vcpu->Join();
    uv_close(reinterpret_cast<uv_handle_t*>(&vcpu->async), OnClosed);
  }

  static void OnClosed(uv_handle_t* closed) {
    auto* vcpu = static_cast<Vcpu*>(closed->data);
    napi_remove_async_cleanup_hook(vcpu->cleanup);
    delete vcpu;
  }

  /** The isolate ends (a Worker, or the process) while the vCPU runs. */
  static void OnTeardown(napi_async_cleanup_hook_handle, void* data) {
    auto* vcpu = static_cast<Vcpu*>(data);
    if (vcpu->owner != nullptr) vcpu->owner->Release();
  }

  static void OnEvents(uv_async_t* async) {
    auto* vcpu = static_cast<Vcpu*>(async->data);
    VcpuObject* self = vcpu->owner;
    if (self == nullptr) return;
    Napi::HandleScope scope(self->Env());
    // Keeps the object over the end of the thread and a garbage collection inside the callback.
    [[maybe_unused]] Napi::Object keep = self->Value();
    auto end = Clock::now() + kTurn * vcpu->Enter();
    uint32_t events;
    do {
      events = vcpu->TakeEvents();
      if (events != 0) self->Call(events);
      if (self->vcpu_ == nullptr) return;
    } while ((events & kExit) && Clock::now() < end && vcpu->LookForEvents());
    vcpu->Leave();
  }

  void Call(uint32_t events) {
    Napi::HandleScope scope(Env());
    int error = 0;
    if (events & kEnded) {
      error = vcpu_->Join();
      Release();
      Unref();
    }
    CallBack(*context_, callback_, {Napi::Number::New(Env(), events), Napi::Number::New(Env(), error)});
    // It may hold what holds this object: nothing of that could ever be collected.
    if (events & kEnded) callback_.Reset();
  }

  Napi::Value Resume(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), vcpu_ != nullptr && vcpu_->Resume());
  }

  template <void (Vcpu::*tell)()>
  void Tell(const Napi::CallbackInfo&) {
    if (vcpu_ != nullptr) (vcpu_->*tell)();
  }

  template <void (*change)(uv_handle_t*)>
  void HoldLoop(const Napi::CallbackInfo&) {
    if (vcpu_ != nullptr) change(reinterpret_cast<uv_handle_t*>(&vcpu_->async));
  }

  Vcpu* vcpu_ = nullptr;
  Napi::FunctionReference callback_;
  std::unique_ptr<Napi::AsyncContext> context_;
};

}  // namespace

void RegisterVcpu(Napi::Env env, Napi::Object exports) { exports.Set("VcpuLoop", VcpuObject::Define(env)); }

}  // namespace tsvmm
