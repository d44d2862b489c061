// What ThreadSanitizer is told by the emulated device; nothing in other builds.
#pragma once

#if defined(EMULATE_TSAN)
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
}
#else
static inline void __tsan_acquire(void*) {}
static inline void __tsan_release(void*) {}
static inline void __tsan_read_range(void*, unsigned long) {}
static inline void __tsan_write_range(void*, unsigned long) {}
#endif
