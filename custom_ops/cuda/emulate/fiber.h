// A thread of the emulated device: a stack of its own that runs until it gives control back.
#pragma once

#include <cstddef>

namespace qonnx::emulate {

// One fiber runs at a time, all on one thread of the host. AddressSanitizer and ThreadSanitizer are told of every
// switch, so that both see each fiber as a thread of its own.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void prepare(void (*entry)());  // the next `run` starts entry(), which ends with leave(true)
  void run();                     // called by the host: until the fiber leaves
  void leave(bool finished);      // called inside the fiber: back to the host

 private:
  struct State;
  State* state_;
};

}  // namespace qonnx::emulate
