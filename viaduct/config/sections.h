// The sections of run_config.yaml but `model:`, one struct each, with the names, types and defaults of Megatron
// Bridge 0.6.2's classes. The tables (*_sections.inc) make the members, the YAML and the reflection.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "viaduct/config/section.h"

namespace viaduct::config {

/// Data files that are blended: their paths without ending, and how often each is drawn; no weights: by their
/// sizes.
struct Blend {
  Strings paths;
  std::optional<Numbers> weights;
};
/// None: mock data, or nothing for a split.
using OptBlend = std::optional<Blend>;
/// One for each of train, validation and test.
using OptBlends = std::optional<std::vector<OptBlend>>;

/// In YAML [[paths], [weights] or null].
template <>
struct Codec<Blend> {
  static bool accepts(const Yaml& node);
  static Blend decode(const Yaml& node);
  static Yaml encode(const Blend& blend);
  static std::string expects();
};

/// A signal by its name: "SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"; UserError for another.
PyEnum signal_named(std::string_view name);

#define SECTION(Type, target_, classes_)                        \
  /** A section, with the fields of its class upstream. */      \
  struct Type {                                                 \
    /** Its class upstream. */                                  \
    static constexpr std::string_view kTarget = target_;        \
    /** All classes that it stands for, by their last words. */ \
    static constexpr std::string_view kClasses = classes_;      \
    std::string target{kTarget};                                \
    Yaml unknown = Yaml::mapping();                             \
    /** Is the section of the class with this last word? */     \
    bool is(std::string_view name) const { return last_word(target) == name; }
#define F(type, name, ...) type name = __VA_ARGS__;
#define C(type, name, choices, ...) type name = __VA_ARGS__;
#define O(only_for, type, name, ...) type name = __VA_ARGS__;
#define END \
  }         \
  ;
#include "viaduct/config/sft_parts.inc"
/// How an example becomes tokens with a loss mask.
using SftPreprocessing = std::variant<ChatSFTPreprocessingConfig, PromptCompletionSFTPreprocessingConfig>;
#include "viaduct/config/section_groups.inc"
#undef SECTION
#undef F
#undef C
#undef O
#undef END

/// The section dataset: one of upstream's classes, or any other with its _target_.
using DatasetConfig = std::variant<GPTDatasetConfig, GPTSFTDatasetConfig, DirectHFSFTDatasetConfig, HFDatasetConfig,
                                   MockVLMSFTDatasetConfig, EnergonDatasetConfig, ObjectNode>;
/// The section peft; LoRA is also VLMLoRA.
using PeftConfig = std::variant<LoRA, CanonicalLoRA, DoRA, ObjectNode>;
/// The section mixed_precision: a recipe's name (mixed_precision.h) or the settings.
using MixedPrecision = std::variant<std::string, MixedPrecisionConfig>;

// The tables of all fields.
#define SECTION(Type, target, classes) \
  /** The table of its fields. */      \
  template <>                          \
  std::span<const Field<Type>> fields<Type>();
#define F(...)
#define C(...)
#define O(...)
#define END
#include "viaduct/config/section_groups.inc"
#include "viaduct/config/sft_parts.inc"
#undef SECTION
#undef F
#undef C
#undef O
#undef END

}  // namespace viaduct::config
