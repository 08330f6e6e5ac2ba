#include "viaduct/training/training_log.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <ctime>

#include "viaduct/core/json.h"

namespace viaduct::training {

namespace {

// "2026-01-31 18:05:09", in the machine's time zone.
std::string now_here() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts)};
}

}  // namespace

TrainingLog::TrainingLog(TrainingLogOptions options) : options_(std::move(options)) {
  if (options_.tensorboard_dir) {
    std::filesystem::create_directories(*options_.tensorboard_dir);
    events_ = std::make_unique<formats::EventWriter>(*options_.tensorboard_dir);
  }
}

void TrainingLog::add(const IterationReport& report) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - iteration_begin_).count();
  iteration_begin_ = now;
  ++iterations_;
  skipped_ += report.skipped;
  nan_ += report.nan;
  if (!report.skipped && !report.nan) {
    ++counted_;
    for (const auto& [name, loss] : report.losses) sums_[name] += loss;
  }
  if (report.iteration % options_.tensorboard_log_interval == 0) write_scalars(report, seconds);
  if (report.iteration % options_.log_interval == 0) print_line(report);
}

void TrainingLog::print_line(const IterationReport& report) {
  const auto now = Clock::now();
  const double seconds =
      std::chrono::duration<double>(now - line_begin_).count() / static_cast<double>(iterations_);
  std::string line = fmt::format(
      " [{}] iteration {:8}/{:8} | consumed samples: {:12} | elapsed time per "
      "iteration (ms): {:.1f} |",
      now_here(), report.iteration, options_.train_iterations, report.consumed_samples, seconds * 1e3);
  if (options_.flops_per_sample > 0)
    line += fmt::format(" throughput per GPU (TFLOP/s/GPU): {:.3g} |",
                        options_.flops_per_sample * static_cast<double>(report.global_batch_size) / seconds / 1e12 /
                            options_.world_size);
  line += fmt::format(" learning rate: {:.6E} | global batch size: {:5} |", report.lr, report.global_batch_size);
  for (const auto& [name, sum] : sums_)
    line += fmt::format(" {}: {:.6E} |", name, sum / static_cast<double>(std::max<int64_t>(counted_, 1)));
  if (options_.log_loss_scale) line += fmt::format(" loss scale: {:.1f} |", report.loss_scale);
  line += fmt::format(" grad norm: {:.3f} |", report.grad_norm);
  if (report.num_zeros) line += fmt::format(" num zeros: {} |", *report.num_zeros);
  if (report.params_norm) line += fmt::format(" params norm: {:.3f} |", *report.params_norm);
  line += fmt::format(" number of skipped iterations: {:3} | number of nan iterations: {:3} |", skipped_, nan_);
  say(line);
  sums_.clear();
  counted_ = iterations_ = skipped_ = nan_ = 0;
  line_begin_ = Clock::now();
}

void TrainingLog::write_scalars(const IterationReport& report, double seconds) {
  const int64_t step = report.iteration;
  if (options_.json_lines) {
    if (!json_) {
      const Path path = std::filesystem::absolute(*options_.json_lines);
      std::filesystem::create_directories(path.parent_path());
      json_.emplace(path, std::filesystem::exists(path) ? std::filesystem::file_size(path) : 0);
    }
    Json losses = Json::object();
    for (const auto& [name, loss] : report.losses) losses.set(name, loss);
    Json line = Json::object({{"iteration", step},
                              {"consumed_samples", report.consumed_samples},
                              {"global_batch_size", report.global_batch_size},
                              {"lr", report.lr},
                              {"weight_decay", report.weight_decay},
                              {"losses", losses},
                              {"grad_norm", report.grad_norm},
                              {"loss_scale", report.loss_scale},
                              {"skipped", report.skipped},
                              {"seconds", seconds}});
    const std::string text = line.dump() + '\n';
    json_->append(std::as_bytes(std::span(text)));
    json_->flush();
  }
  if (!events_) return;
  events_->add_scalar("learning-rate", report.lr, step);
  events_->add_scalar("weight-decay", report.weight_decay, step);
  events_->add_scalar("batch-size", static_cast<double>(report.global_batch_size), step);
  for (const auto& [name, loss] : report.losses) events_->add_scalar(name, loss, step);
  for (const auto& [name, loss] : report.losses)
    events_->add_scalar(name + " vs samples", loss, report.consumed_samples);
  if (options_.log_loss_scale) events_->add_scalar("loss-scale", report.loss_scale, step);
  events_->add_scalar("grad-norm", report.grad_norm, step);
  if (report.num_zeros) events_->add_scalar("num-zeros", static_cast<double>(*report.num_zeros), step);
  if (report.params_norm) events_->add_scalar("params-norm", *report.params_norm, step);
  events_->add_scalar("iteration-time", seconds, step);
  for (const auto& [name, spent] : report.timers) events_->add_scalar(name + "-time", spent, step);
  if (options_.flops_per_sample > 0)
    events_->add_scalar("throughput/tflops/device",
                        options_.flops_per_sample * static_cast<double>(report.global_batch_size) / seconds / 1e12 /
                            options_.world_size,
                        step);
}

void TrainingLog::evaluated(const std::string& what, int64_t iteration,
                            const std::map<std::string, double>& losses) {
  std::string line = fmt::format(" {} loss at iteration {} |", what, iteration);
  for (const auto& [name, loss] : losses) {
    const double perplexity = std::exp(std::min(20.0, loss));
    line += fmt::format(" {0} value: {1:.6E} | {0} PPL: {2:.6E} |", name, loss, perplexity);
    if (!events_) continue;
    events_->add_scalar(fmt::format("{} {}", name, what), loss, iteration);
    events_->add_scalar(fmt::format("{} {} ppl", name, what), perplexity, iteration);
  }
  say(line);
}

void TrainingLog::pause() { pause_begin_ = Clock::now(); }

void TrainingLog::resume() {
  const Clock::duration spent = Clock::now() - pause_begin_;
  line_begin_ += spent;
  iteration_begin_ += spent;
}

void TrainingLog::say(const std::string& line) {
  if (options_.print) options_.print(line);
}

void TrainingLog::flush() {
  if (events_) events_->flush();
}

}  // namespace viaduct::training
