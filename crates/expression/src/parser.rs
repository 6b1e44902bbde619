//! Tokens → the typed tree.

use gnomon_flow::{Field, FieldKind, field};

use super::ast::{Comparison, Expression, FieldRef, Operand, Term, TextTerm, TimeTerm};
use super::error::{ParseError, field_hint};
use super::lexer::{Kind, Token, tokens};
use super::{DEPTH_MAX, EXPRESSION_BYTES_MAX, PATTERNS_MAX, term};

/// What can be asked where an expression is asked.
#[derive(Clone, Copy)]
pub struct Scope {
    /// Why a field cannot be asked there; `None` where it can.
    pub refuse: fn(&'static Field) -> Option<&'static str>,
    /// Whether there is a moment that `now-5m` counts from.
    pub relative_times: bool,
}

impl Scope {
    /// Whole records, and now.
    pub const RECORDS: Scope = Scope { refuse: |_| None, relative_times: true };
}

/// Parse an expression. The empty text is every flow.
///
/// # Errors
/// What is wrong, with its column.
pub fn parse(source: &str) -> Result<Expression, ParseError> {
    parse_in(source, Scope::RECORDS)
}

/// As [`parse`], where not everything can be asked.
///
/// # Errors
/// What is wrong, or cannot be asked there, with its column.
pub fn parse_in(source: &str, scope: Scope) -> Result<Expression, ParseError> {
    if source.len() > EXPRESSION_BYTES_MAX {
        let cut = source.floor_char_boundary(EXPRESSION_BYTES_MAX);
        let message = format!("expression has {} bytes, at most {EXPRESSION_BYTES_MAX}", source.len());
        return Err(ParseError::at(source, cut, cut + 1, message));
    }
    let tokens = tokens(source)?;
    let mut parser = Parser { source, scope, tokens: &tokens, at: 0, depth: 0, patterns: 0 };
    if parser.peek().kind == Kind::End {
        return Ok(Expression::All);
    }
    let expression = parser.or()?;
    let token = parser.peek();
    let hint = match token.kind {
        Kind::End => return Ok(expression),
        Kind::Close => "there is no ( before it",
        Kind::Comma => "several values stand in brackets: [22,443]",
        _ => "combine comparisons with && or ||, and quote text that has blanks",
    };
    Err(parser.unexpected(token, "the end, && or ||").hint(hint))
}

struct Parser<'s, 't> {
    source: &'s str,
    scope: Scope,
    tokens: &'t [Token],
    at: usize,
    depth: usize,
    patterns: usize,
}

impl<'s, 't> Parser<'s, 't> {
    fn peek(&self) -> &'t Token {
        // The last token is the end, and nothing goes beyond it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> &'t Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn take_if(&mut self, kind: &Kind) -> bool {
        let found = self.peek().kind == *kind;
        self.at += usize::from(found);
        found
    }

    fn error(&self, token: &Token, message: impl Into<String>) -> ParseError {
        ParseError::at(self.source, token.start, token.end, message)
    }

    fn unexpected(&self, token: &Token, wanted: &str) -> ParseError {
        let found = match &token.kind {
            Kind::End => "the expression ends".to_owned(),
            _ => {
                let text = self.source.get(token.start..token.end).unwrap_or_default();
                let cut = text.floor_char_boundary(40);
                let dots = if cut < text.len() { "…" } else { "" };
                format!("`{}{dots}` stands", &text[..cut])
            }
        };
        self.error(token, format!("{found} where {wanted} should be"))
    }

    fn or(&mut self) -> Result<Expression, ParseError> {
        let mut list = vec![self.and()?];
        while self.take_if(&Kind::Or) {
            list.push(self.and()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expression::Or(list) })
    }

    fn and(&mut self) -> Result<Expression, ParseError> {
        let mut list = vec![self.unary()?];
        while self.take_if(&Kind::And) {
            list.push(self.unary()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expression::And(list) })
    }

    fn unary(&mut self) -> Result<Expression, ParseError> {
        let token = self.peek();
        if !matches!(token.kind, Kind::Not | Kind::Open) {
            return self.comparison().map(Expression::Compare);
        }
        if self.depth >= DEPTH_MAX {
            return Err(
                self.error(token, format!("more than {DEPTH_MAX} parentheses and ! inside each other"))
            );
        }
        self.depth += 1;
        self.at += 1;
        let inner = if token.kind == Kind::Not {
            Expression::Not(Box::new(self.unary()?))
        } else {
            let inner = self.or()?;
            if !self.take_if(&Kind::Close) {
                let found = self.peek();
                let hint = match found.kind {
                    Kind::Comma => "several values stand in brackets: [22,443]".to_owned(),
                    Kind::End => {
                        let open = ParseError::at(self.source, token.start, token.end, "");
                        format!("the ( at column {} is not closed", open.column)
                    }
                    _ => "combine comparisons with && or ||, and quote text that has blanks".to_owned(),
                };
                return Err(self.unexpected(found, "), && or ||").hint(hint));
            }
            inner
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn comparison(&mut self) -> Result<Comparison, ParseError> {
        let name = self.take();
        let field = self.field(name)?;
        let token = self.take();
        let Kind::Operator(operator) = token.kind else {
            return Err(self
                .unexpected(token, "an operator")
                .hint(format!("compare the field: {0} == …, or {0} == EXISTS!", field.name)));
        };
        if !operator.is_equality() && matches!(field.kind, FieldKind::Text | FieldKind::Bool) {
            let kind = term::kind_name(field.kind);
            return Err(self
                .error(token, format!("{} is {kind}: it has no order", field.name))
                .hint("write == or !="));
        }
        let start = self.peek();
        let operand = self.operand(field)?;
        let ordered = match &operand {
            Operand::One(Term::Integer(from, to)) => from == to,
            Operand::One(Term::Ip(ip)) => ip.port.is_none(),
            Operand::One(_) => true,
            _ => false,
        };
        if !operator.is_equality() && !ordered {
            return Err(self
                .error(start, format!("{operator} takes one single value"))
                .hint("EXISTS!, lists, ranges and ports go with == and !="));
        }
        Ok(Comparison { field: FieldRef(field), operator, operand })
    }

    fn field(&self, token: &Token) -> Result<&'static Field, ParseError> {
        let text = match &token.kind {
            Kind::Text(text) if !text.quoted => text,
            Kind::Text(_) => {
                return Err(self.unexpected(token, "a field").hint("field names are not quoted"));
            }
            _ => {
                return Err(self
                    .unexpected(token, "a field")
                    .hint("write field == value, as in port.dst == 443"));
            }
        };
        let name = self.source.get(token.start..token.end).unwrap_or_default();
        let field = text.plain().and_then(field::by_name).ok_or_else(|| {
            let cut = name.floor_char_boundary(40);
            let dots = if cut < name.len() { "…" } else { "" };
            self.error(token, format!("unknown field `{}{dots}`", &name[..cut])).hint(field_hint(name))
        })?;
        match (self.scope.refuse)(field) {
            Some(why) => Err(self.error(token, format!("{} cannot be asked here", field.name)).hint(why)),
            None => Ok(field),
        }
    }

    fn operand(&mut self, field: &'static Field) -> Result<Operand, ParseError> {
        let token = self.peek();
        match token.kind {
            Kind::Exists => {
                self.at += 1;
                Ok(Operand::Exists)
            }
            Kind::ListOpen => self.list(field, &Kind::ListClose).map(Operand::AnyOf),
            Kind::ListClose => self.list(field, &Kind::ListOpen).map(Operand::AllOf),
            _ => self.term(field).map(Operand::One),
        }
    }

    fn list(&mut self, field: &'static Field, close: &Kind) -> Result<Vec<Term>, ParseError> {
        let open = self.take();
        let mut terms = Vec::new();
        if self.take_if(close) {
            return Err(self.error(open, "the list is empty").hint("ask for any value by EXISTS!"));
        }
        loop {
            terms.push(self.term(field)?);
            let token = self.take();
            if token.kind == *close {
                return Ok(terms);
            }
            if token.kind != Kind::Comma {
                let end = if *close == Kind::ListClose { "]" } else { "[" };
                return Err(self
                    .unexpected(token, &format!("a comma or {end}"))
                    .hint("quote text that has blanks"));
            }
        }
    }

    fn term(&mut self, field: &'static Field) -> Result<Term, ParseError> {
        let token = self.take();
        let term = match &token.kind {
            Kind::Text(text) => term::of_text(field, text),
            Kind::Regex(pattern) => term::of_regex(field, pattern),
            Kind::Exists => {
                return Err(self.unexpected(token, "a value").hint("EXISTS! stands alone: field == EXISTS!"));
            }
            _ => return Err(self.unexpected(token, "a value")),
        };
        let term = term.map_err(|problem| self.error(token, problem.message).hint(problem.hint))?;
        if !self.scope.relative_times && matches!(term, Term::Time(TimeTerm::Now(_))) {
            let message = "a time that counts from now cannot be asked here";
            return Err(self.error(token, message).hint("write a fixed one, such as 2026-01-31"));
        }
        if matches!(term, Term::Text(TextTerm::Regex(_) | TextTerm::Wildcard(_))) {
            self.patterns += 1;
            if self.patterns > PATTERNS_MAX {
                let message = format!("more than {PATTERNS_MAX} wildcards and regular expressions");
                return Err(self.error(token, message));
            }
        }
        Ok(term)
    }
}
