// viaduct login: keeps a token of the hub.
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <iostream>

#include "cli/command.h"
#include "viaduct/core/error.h"
#include "viaduct/hub/cache.h"

namespace viaduct::cli {

namespace {

struct LoginFlags {};

// A line of the standard input, not shown where it is a terminal.
std::string read_token() {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  termios before{};
  if (terminal) {
    fmt::print(stderr, "Token (from the settings page of your account; it is not shown): ");
    std::fflush(stderr);
    ::tcgetattr(STDIN_FILENO, &before);
    termios hidden = before;
    hidden.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
  }
  std::string token;
  std::getline(std::cin, token);
  if (terminal) {
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    fmt::print(stderr, "\n");
  }
  while (!token.empty() && (token.back() == '\r' || token.back() == ' ')) token.pop_back();
  return token;
}

int run_login(const LoginFlags&) {
  const hub::HubSettings settings = hub::HubSettings::from_environment();
  const std::string token = read_token();
  VIADUCT_USER_CHECK(
      !token.empty() && token.size() <= 4096 &&
          std::all_of(token.begin(), token.end(), [](unsigned char c) { return c > ' ' && c < 127; }),
      "no token was given: pass it on the standard input, or type it");
  hub::save_token(settings, token);
  fmt::print("the token is kept in {}\n", settings.token_file.string());
  return kDone;
}

}  // namespace

void add_login(CLI::App& program, Action& action) {
  add_command<LoginFlags>(
      program, action, "login", "Keep a token of the hub for gated and private models",
      [](CLI::App& command, LoginFlags&) {
        command.footer(
            "The token is read from the standard input, never from the command line, and written where "
            "huggingface_hub looks for it, readable by you alone.");
      },
      run_login);
}

}  // namespace viaduct::cli
