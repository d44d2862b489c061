// Aligned memory: what lives as long as a kernel, and scratch space that calls borrow.
#pragma once

#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qonnx::cpu {

// Bytes on a 64-byte boundary; from 2 MB on, on huge pages where the system gives them (fewer misses while streaming).
class Buffer {
 public:
  explicit Buffer(size_t bytes = 0) : bytes_(bytes) {
    if (!bytes) return;
    const size_t huge = size_t{2} << 20, alignment = bytes >= huge ? huge : 64;
    data_.reset(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == huge) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a hint: failing is harmless
#endif
  }
  template <class T>
  T* as(size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_.get()) + offset);
  }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_;
};

// Scratch space for calls that may run at the same time: each borrows a buffer and gives it back, so that the steady
// state allocates nothing.
class Scratch {
 public:
  class Loan {
   public:
    Loan(Scratch& owner, size_t bytes) : owner_(owner), buffer_(owner.take(bytes)) {}
    ~Loan() { owner_.give(std::move(buffer_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    // The next `count` numbers of the loan.
    template <class T>
    T* next(size_t count) {
      T* place = buffer_.as<T>(used_);
      used_ += size_of<T>(count);
      return place;
    }

   private:
    Scratch& owner_;
    Buffer buffer_;
    size_t used_ = 0;
  };

  // Bytes that next<T>(count) takes.
  template <class T>
  static size_t size_of(size_t count) {
    return (count * sizeof(T) + 63) / 64 * 64;
  }

 private:
  Buffer take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        Buffer last = std::move(free_.back());
        free_.pop_back();
        if (last.bytes() >= bytes) return last;
      }
    }
    return Buffer(bytes);
  }
  void give(Buffer buffer) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(buffer));
  }

  std::mutex mutex_;
  std::vector<Buffer> free_;
};

}  // namespace qonnx::cpu
