//! The binary: it hands the command line to `app` and ends with the code that tells the story.

use sanctum_mlx::app;
use sanctum_mlx::platform::process;

fn main() -> ! {
    let code = app::run(std::env::args_os());
    // Not a return: MLX keeps threads whose static destructors crash (L14).
    process::exit_now(code);
}
