// Errors in two families and the macros that throw them.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace viaduct {

/// What this program throws. (std::bad_alloc and errors of the standard library come besides.)
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user's input cannot be used: a flag, a configuration, a file, a checkpoint. The message says what was being
/// done, names the file, tensor, key and byte offset where there are such, gives expected and found, and what to
/// do.
class UserError : public Error {
 public:
  using Error::Error;
};

/// A defect of this program.
class InternalError : public Error {
 public:
  using Error::Error;
};

/// The operating system refused something (disk full, no permission): a UserError that keeps errno.
class SystemError : public UserError {
 public:
  /// The message gets ": " and the text of `error_number`, an errno, at its end.
  SystemError(const std::string& message, int error_number);
  /// The errno.
  int error_number() const { return error_number_; }

 private:
  int error_number_;
};

/// The user stopped the work (Ctrl-C). What was staged stays for --resume or is removed, as the caller decides.
class Interrupted : public Error {
 public:
  using Error::Error;
};

namespace detail {
[[noreturn]] void throw_internal(const char* file, int line, const char* condition, const std::string& message);
[[noreturn]] void throw_user(const std::string& message);

template <class A, class B>
std::string both(const char* relation, const A& a, const B& b, const std::string& message) {
  return fmt::format("{} (found {}, expected {} {})", message, a, relation, b);
}
}  // namespace detail

/// "text: No such file or directory", for the errno of the call that just failed.
[[noreturn]] void throw_system(const std::string& doing);
[[noreturn]] void throw_system(const std::string& doing, int error_number);

}  // namespace viaduct

/// VIADUCT_CHECK(condition, format, ...): an InternalError with the condition's text and place unless it holds.
#define VIADUCT_CHECK(condition, ...)                                                                   \
  do {                                                                                                  \
    if (!(condition)) [[unlikely]]                                                                      \
      ::viaduct::detail::throw_internal(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (0)

/// VIADUCT_USER_CHECK(condition, format, ...): a UserError with this message unless the condition holds.
#define VIADUCT_USER_CHECK(condition, ...)                       \
  do {                                                           \
    if (!(condition)) [[unlikely]]                               \
      ::viaduct::detail::throw_user(::fmt::format(__VA_ARGS__)); \
  } while (0)

#define VIADUCT_USER_CHECK_OP_(op, a, b, ...)                                                            \
  do {                                                                                                   \
    const auto& va_ = (a);                                                                               \
    const auto& vb_ = (b);                                                                               \
    if (!(va_ op vb_)) [[unlikely]]                                                                      \
      ::viaduct::detail::throw_user(::viaduct::detail::both(#op, va_, vb_, ::fmt::format(__VA_ARGS__))); \
  } while (0)
/// VIADUCT_USER_CHECK_EQ(found, expected, format, ...): a UserError that prints both operands unless they are
/// equal. _LE: unless found <= expected; _LT: unless found < expected.
#define VIADUCT_USER_CHECK_EQ(a, b, ...) VIADUCT_USER_CHECK_OP_(==, a, b, __VA_ARGS__)
/// As VIADUCT_USER_CHECK_EQ.
#define VIADUCT_USER_CHECK_LE(a, b, ...) VIADUCT_USER_CHECK_OP_(<=, a, b, __VA_ARGS__)
/// As VIADUCT_USER_CHECK_EQ.
#define VIADUCT_USER_CHECK_LT(a, b, ...) VIADUCT_USER_CHECK_OP_(<, a, b, __VA_ARGS__)

#define VIADUCT_CHECK_OP_(op, a, b, ...)                                                                        \
  do {                                                                                                          \
    const auto& va_ = (a);                                                                                      \
    const auto& vb_ = (b);                                                                                      \
    if (!(va_ op vb_)) [[unlikely]]                                                                             \
      ::viaduct::detail::throw_internal(__FILE__, __LINE__, #a " " #op " " #b,                                  \
                                        ::viaduct::detail::both(#op, va_, vb_, ::fmt::format("" __VA_ARGS__))); \
  } while (0)
/// VIADUCT_CHECK_EQ(found, expected, format, ...): an InternalError that prints both operands; _LE and _LT
/// likewise.
#define VIADUCT_CHECK_EQ(a, b, ...) VIADUCT_CHECK_OP_(==, a, b, __VA_ARGS__)
/// As VIADUCT_CHECK_EQ.
#define VIADUCT_CHECK_LE(a, b, ...) VIADUCT_CHECK_OP_(<=, a, b, __VA_ARGS__)
/// As VIADUCT_CHECK_EQ.
#define VIADUCT_CHECK_LT(a, b, ...) VIADUCT_CHECK_OP_(<, a, b, __VA_ARGS__)
