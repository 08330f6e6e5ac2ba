// The compiled part of the fmt that libtorch's headers bring, another version than this project's own: what
// includes them sees it first. Both can be in one program, their names differ.
#include <fmt/format-inl.h>

#include <locale>

FMT_BEGIN_NAMESPACE

template locale_ref::locale_ref(const std::locale&);
template std::locale locale_ref::get<std::locale>() const;

namespace detail {

template dragonbox::decimal_fp<float> dragonbox::to_decimal(float) noexcept;
template dragonbox::decimal_fp<double> dragonbox::to_decimal(double) noexcept;
template thousands_sep_result<char> thousands_sep_impl(locale_ref);
template char decimal_point_impl(locale_ref);
template void buffer<char>::append(const char*, const char*);

}  // namespace detail
FMT_END_NAMESPACE
